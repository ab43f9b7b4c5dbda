"""The workers of a run: on all cores or GPUs of this machine, or of a cluster that is already there."""

import contextlib
import logging
import os
import shlex
import sys
import threading
import warnings
from collections.abc import Iterator

from lib import ROOT, InputError
from lib.store.workers import ADDRESS, PATIENCE, cluster

SLURM = "slurm"  # what CLUSTER= says for jobs of this batch system
WORKER_GB = 10  # what a process holds at most, 9.9 in the records, which are from before the last two lines of MALLOC
# glibc gives the memory of a layer's output back to the system and asks for it again at the next layer, page by page,
# which takes a fifth of a network's time on a CPU. It is told to keep what it has; Dask would tell it the opposite.
# What is kept is not found again by itself. Threads other than the first, where Dask computes, have heaps of 64 MB,
# which hold no larger block. And the slivers that aligning a block leaves wait in caches of small pieces, so that the
# block does not fit another of its size once it is free (glibc's bug 14581, until 2.38): processes took four times what
# they held. Hence one arena, and no such caches.
MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# The progress of a unit and Dask's own notes have no place beside the progress of the run.
QUIET = {"TQDM_DISABLE": "1"}
# A client asks for the cluster's totals every two seconds, and an answer that comes while it asks for the workers takes
# their place: on a busy machine a cluster seemed to have none. Nothing here needs the totals.
UNASKED = {"DASK_DISTRIBUTED__CLIENT__SCHEDULER_INFO_INTERVAL": "24h"}
SILENT = {"DASK_LOGGING__DISTRIBUTED": "critical", "PYTHONUTF8": "1"}


@contextlib.contextmanager
def workers_for(count: int | None = None, *, address: str = "") -> Iterator[str]:
    """Let the notebooks of a run compute their units on a cluster while this is entered; says on which.

    count: workers of this machine, by default `affordable`; one worker is the notebook's own process. address: of the
    scheduler of a running cluster, such as tcp://10.0.0.1:8786, which is joined instead, or SLURM, which is asked for
    `count` workers, see `slurm_cluster`.
    Raises InputError where nothing answers at `address`, for a count below 1, and as `slurm_cluster`.
    """
    if address == SLURM:
        with slurm_cluster(count) as jobs, at_address(jobs.scheduler_address):
            yield f"Workers: {count or 1} asked of SLURM; dashboard {jobs.dashboard_link}"
        return
    if address:
        with at_address(address):
            client = cluster()
            found = len(client.nthreads())
            yield f"Workers: {found} of the cluster {address}; dashboard {client.dashboard_link}"
        return
    gpus = visible_gpus()
    count = affordable(len(gpus)) if count is None else count
    if count < 1:
        raise InputError(f"WORKERS is {count}; give the number of processes that compute, at least 1.")
    if count == 1:
        yield "Workers: 1, the notebook's own process"
        return
    with local_cluster(count, gpus) as local, at_address(local.scheduler_address):
        kind = "one on each GPU" if gpus else "one thread each"
        yield f"Workers: {count}, {kind}; dashboard {local.dashboard_link}"


def affordable(gpus: int) -> int:
    """As many workers as there are GPUs; without, as cores and memory of this machine or container allow."""
    if gpus:
        return gpus
    from dask.system import cpu_count
    from distributed.system import memory_limit

    return max(1, min(cpu_count(), int(memory_limit() / 1e9 / WORKER_GB)))


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES would have them."""
    import torch  # seconds, which a plan need not wait

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = [name.strip() for name in chosen.split(",") if name.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


@contextlib.contextmanager
def local_cluster(count: int, gpus: list[str]) -> Iterator:
    """A scheduler in this process, which answers on this machine only, with `count` workers, on `gpus` in turn.

    A worker that dies is replaced. The workers end with this process, however it ends.
    """
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    for name in list(logging.root.manager.loggerDict):  # a worker that dies is replaced; a unit that fails is named
        if name.startswith(("distributed", "tornado")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # A unit's results are files, so that memory is the unit's own affair: nothing to spill, no worker to pause.
    memory = {f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause", "terminate")}
    # Dask leaves these in the environment of this process, too, and so of notebooks; those of a worker alone are `own`.
    before_start = {"distributed.nanny.pre-spawn-environ": ONE_THREAD | MALLOC | SILENT}
    # A unit is sent to a worker when that is free: one that waited there would share the blame for the worker's death.
    fair = {"distributed.scheduler.allowed-failures": PATIENCE, "distributed.scheduler.worker-saturation": 1.0}
    fair["distributed.deploy.lost-worker-timeout"] = "5s"
    with dask.config.set(memory | before_start | fair):
        workers = {}
        for number in range(count):
            own = QUIET | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
            workers[number] = {"cls": Nanny, "options": {"nthreads": 1, "memory_limit": 0, "env": own}}
        here = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a dashboard's port
            local = SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": here})
        with local, _kept_up(local, count):
            yield local


@contextlib.contextmanager
def _kept_up(local, count: int) -> Iterator[None]:
    """Start again what gave up: Dask replaces a worker that dies, but not one that dies while it starts."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(10):
            local.scale(count)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextlib.contextmanager
def slurm_cluster(count: int | None = None) -> Iterator:
    """A scheduler in this process, and jobs of SLURM with at least `count` workers, which it submits and ends.

    What a job is, its queue, account, time, cores and memory, is said in Dask's own file, ~/.config/dask/jobqueue.yaml,
    under jobqueue.slurm, or in variables such as DASK_JOBQUEUE__SLURM__CORES. A job has a worker a core.
    Raises InputError without cores or memory.
    """
    import dask
    from dask_jobqueue import SLURMCluster

    said = dask.config.get("jobqueue.slurm", {})
    if not said.get("cores") or not said.get("memory"):
        raise InputError(
            "SLURM needs the cores and the memory of a job: give them under jobqueue.slurm in "
            "~/.config/dask/jobqueue.yaml, or as DASK_JOBQUEUE__SLURM__CORES=16 DASK_JOBQUEUE__SLURM__MEMORY=64GB."
        )
    exports = [f"export {name}={value}" for name, value in (ONE_THREAD | MALLOC | SILENT | QUIET).items()]
    prologue = [f"cd {shlex.quote(str(ROOT))}", *exports, *said.get("job-script-prologue", [])]
    python = said.get("python") or sys.executable
    with SLURMCluster(processes=said["cores"], python=python, job_script_prologue=prologue) as jobs:
        jobs.scale(count or 1)
        yield jobs


@contextlib.contextmanager
def at_address(address: str) -> Iterator[None]:
    """Let this process, and those it starts, compute their units on the cluster whose scheduler is at `address`."""
    told = {ADDRESS: address, **UNASKED}
    before = {name: os.environ[name] for name in told if name in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]
        os.environ.update(before)
