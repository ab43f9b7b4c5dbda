"""Where units are computed: in this process, or on the workers of a Dask cluster; by one thread each in both cases."""

import contextlib
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from threadpoolctl import threadpool_limits

from lib import InputError
from lib.store import provenance
from lib.store.source import source_digest

ADDRESS = "DASK_SCHEDULER_ADDRESS"  # the environment variable that Dask itself reads
WAIT = "20s"  # for a scheduler to answer
LOST = 60  # seconds without any worker after which a cluster is given up
PATIENCE = 3  # workers that may die of one unit before it is given up

_limits = None  # of a worker's libraries, held for good


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch and the libraries of linear algebra to one thread, so that no number depends on the cores.

    >>> import torch
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    import torch  # seconds, which a plan need not wait

    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def cluster():
    """The client of the cluster that `DASK_SCHEDULER_ADDRESS` names, None where it names none.

    Raises InputError where nothing answers there.
    """
    address = os.environ.get(ADDRESS)
    return _connected(address) if address else None


def unit_environment() -> dict[str, object]:
    """`provenance.environment` of the process that computes: a worker's where there is a cluster.

    Raises InputError for workers that lack the project or have other versions than this process.
    """
    client = cluster()
    if client is None:
        return provenance.environment()
    found = _environment_of(client)
    provenance.tally["workers"] = len(client.nthreads())
    return found


def computed(
    tasks: Mapping[str, tuple], compute: Callable[..., dict], *, module: str, folder: Path, label: str
) -> Iterator[tuple[str, dict]]:
    """(name, compute(*arguments)) of each task {name: arguments}, as they finish.

    In this process one after the other; on a cluster as many at once as there are workers. A worker that dies is
    replaced, and its task begins again. What was not finished when this is left is cancelled.
    module: whose code computes, which must be the same here and there; folder: that `compute` writes to, which all
    workers must share
    Raises what `compute` raises; InputError where the cluster is lost, where workers die of a task one after the other,
    where they have other code, and where they do not see `folder`.
    """
    client, start = cluster(), time.perf_counter()
    if client is None:
        found = _here(tasks, compute)
    else:
        _require_shared(client, folder)
        found = _on_workers(client, tasks, functools.partial(_held, compute, module, source_digest(module)), label)
    with contextlib.closing(found):
        for each in found:
            provenance.tally["waited"] += time.perf_counter() - start
            yield each
            start = time.perf_counter()


def _here(tasks: Mapping[str, tuple], compute: Callable[..., dict]) -> Iterator[tuple[str, dict]]:
    with one_thread():
        for name, arguments in tasks.items():
            yield name, compute(*arguments)


def _on_workers(client, tasks: Mapping[str, tuple], compute: Callable[..., dict], label: str):
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.comm import CommClosedError

    names = list(tasks)
    options = {"pure": False, "batch_size": 1000}
    futures = client.map(compute, list(tasks.values()), **options)
    named = dict(zip(futures, names, strict=True))
    try:
        completed = as_completed(futures, loop=client.loop)
        while completed.count():
            _wait_for_one(completed, client, label)
            future = next(completed)
            yield named[future], future.result()
            future.release()
    except KilledWorker as error:
        raise InputError(
            f"{label}: {PATIENCE + 1} workers died in turn of {named[future]}, most often because the memory was used "
            "up; give fewer WORKERS=, and type the same command again: finished units are kept."
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise _gone(client) from error
    finally:
        with contextlib.suppress(Exception):  # a lost cluster has nothing left to cancel
            client.cancel(futures, force=True)


def _wait_for_one(completed, client, label: str) -> None:
    last_seen = time.monotonic()
    while not completed.has_ready():
        time.sleep(0.005)
        if time.monotonic() - last_seen > LOST:
            if not client.scheduler_info()["workers"]:
                raise InputError(
                    f"{label}: the cluster at {client.scheduler.address} has had no worker for {LOST} seconds; "
                    "finished units are kept: start workers, and type the same command again."
                )
            last_seen = time.monotonic()


def _held(compute: Callable[..., dict], module: str, code: str, arguments: tuple) -> dict:
    """compute(*arguments) in a worker, whose libraries are held to one thread for good.

    Raises InputError where the worker loaded a `module` of another `code` than the process that asks.
    """
    global _limits
    import torch

    if _code_of(module, code) != code:
        raise InputError(
            f"A worker has other code of {module} than this notebook: it was started before an edit, or in another "
            "copy of the project; restart the workers, or type the same command again: finished units are kept."
        )
    torch.set_num_threads(1)
    os.environ.pop(ADDRESS, None)  # what a unit asks for in its turn, it computes itself
    if _limits is None:
        _limits = threadpool_limits(1)
    return compute(*arguments)


@functools.cache
def _code_of(module: str, asked: str) -> str:
    """The digest of a module's source as it is when it is first `asked` for, which tells later edits."""
    return source_digest(module)


@functools.cache
def _connected(address: str):
    from distributed import Client

    try:
        return Client(address, timeout=WAIT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No cluster answers at {address}; start it, or leave CLUSTER= (the variable {ADDRESS}) out."
        ) from error


@functools.cache
def _environment_of(client) -> dict[str, object]:
    if not client.scheduler_info()["workers"]:
        print(f"Waiting for the first worker of {client.scheduler.address}.", file=sys.stderr)
        client.wait_for_workers(1)
    ours = provenance.environment()
    found = _asked(client, provenance.environment)
    for worker, theirs in found.items():
        names = [name for name, version in theirs["versions"].items() if version != ours["versions"][name]]
        if names:
            name = names[0]
            raise InputError(
                f"Worker {worker} has {name} {theirs['versions'][name]}, this process {ours['versions'][name]}; "
                "install the same environment on all machines of the cluster."
            )
    devices = {theirs["device"] for theirs in found.values()}
    if len(devices) > 1:
        raise InputError(
            "Some workers of the cluster have a GPU and some have none; give a cluster of one kind, because the "
            "numbers of the two differ in the last digits."
        )
    return next(iter(found.values()))


@functools.cache
def _require_shared(client, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-by-") as file:
        blind = [worker for worker, sees in _asked(client, os.path.exists, file.name).items() if not sees]
    if blind:
        raise InputError(
            f"Worker {blind[0]} does not see {folder}; all machines of a cluster must share the project's folder, or "
            "the one given by OUTPUT=."
        )


def _asked(client, function: Callable, *arguments) -> dict:
    """{worker: what `function` returns there}; raises InputError where a worker cannot run the project's code."""
    try:
        return client.run(function, *arguments)
    except OSError as error:  # distributed's CommClosedError is one
        raise _gone(client) from error
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"A worker of {client.scheduler.address} cannot import the project ({error}); start its workers in the "
            "project's folder with the project's own Python."
        ) from error


def _gone(client) -> InputError:
    return InputError(
        f"The cluster at {client.scheduler.address} is gone; finished units are kept: start it, or leave CLUSTER= out, "
        "and type the same command again."
    )
