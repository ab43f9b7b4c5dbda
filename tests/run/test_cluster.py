"""Units on several workers: the same rows to the bit, and nothing lost when a part of the cluster dies."""

import json
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from lib import ROOT, InputError
from lib.attribution import IDGI, Guided, Riemann, attribute
from lib.models.zoo import best_device
from lib.reporting.records import RECORDS
from lib.run import cluster
from lib.run.cluster import at_address, local_cluster, workers_for
from lib.store import workers
from lib.store.units import evaluate, finished
from lib.training.fit import digit_cnn, fit

HERE = str(Path(__file__).parent)


def explained(number: int) -> pd.DataFrame:
    """Rows that a different number of threads would change: a walk that amplifies rounding, and a training."""
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(number))
    target = torch.tensor([number % 10, 3])
    model = fit(digit_cnn(seed=number), x.repeat(8, 1, 1, 1), target.repeat(8), epochs=1, seed=0, batch=8)
    x, target = x.to(best_device()), target.to(best_device())
    maps = attribute(model.requires_grad_(False), x, target, path=Guided(8), rules={"ig": Riemann("left"), "i": IDGI()})
    values = [maps[rule].double().sum(dim=(1, 2, 3)) for rule in ("ig", "i")]
    return pd.DataFrame(
        {"image": ["a", "b"], "ig": values[0].tolist(), "i": values[1].tolist(), "threads": torch.get_num_threads()}
    )


def plain(number: int, *, output: Path | None = None, at: int = -1, do: str = "") -> pd.DataFrame:
    """One row; the unit `at` does something else first, or, where `output` is given, the first time only."""
    time.sleep(0.05)
    if number == at and not (output and output.exists()):
        if output:
            output.write_text(str(os.getpid()))
        match do:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                raise ZeroDivisionError("in a unit")
            case "refuse":
                raise InputError("The disk is full: a test.")
            case "wait":
                time.sleep(1200)
            case "pause":
                time.sleep(3)
    return pd.DataFrame({"image": [f"i{number}"], "value": [number / 3]})


UNITS = {f"u{number}": number for number in range(12)}


def run(cache, compute=plain, units=UNITS):
    return evaluate(units, compute, cache=cache, label="test")


@pytest.fixture(scope="module")
def two():
    with local_cluster(2, []) as local, at_address(local.scheduler_address):
        yield local


@pytest.fixture
def undisturbed(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(workers.ADDRESS, raising=False)
        return run(tmp_path / "undisturbed")


# -- the same rows -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(workers.ADDRESS, raising=False)
        return run(tmp_path_factory.mktemp("alone"), explained, dict(list(UNITS.items())[:6]))


def test_the_same_rows_to_the_bit_on_two_workers_and_on_shuffled_units(two, in_process, tmp_path):
    units = list(UNITS.items())[:6]
    found = run(tmp_path / "a", explained, dict(units))
    pd.testing.assert_frame_equal(found, in_process, check_exact=True)
    assert set(found["threads"]) == {1}
    random.Random(0).shuffle(units)
    shuffled = run(tmp_path / "b", explained, dict(units))
    rows = [row for _, number in units for row in (2 * number, 2 * number + 1)]
    pd.testing.assert_frame_equal(shuffled, in_process.iloc[rows].reset_index(drop=True), check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_the_same_rows_to_the_bit_on_any_number_of_workers(count, in_process, tmp_path):
    with local_cluster(count, []) as local, at_address(local.scheduler_address):
        found = run(tmp_path, explained, dict(list(UNITS.items())[:6]))
    pd.testing.assert_frame_equal(found, in_process, check_exact=True)


def test_in_this_process_many_threads_are_not_used_and_are_given_back(in_process, monkeypatch, tmp_path):
    monkeypatch.delenv(workers.ADDRESS, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = run(tmp_path, explained, {"u0": 0})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(found, in_process[:2], check_exact=True)


def test_units_that_one_process_finished_another_reads(two, tmp_path, monkeypatch):
    found = run(tmp_path)
    monkeypatch.delenv(workers.ADDRESS)
    monkeypatch.setattr(workers, "computed", lambda tasks, *_, **__: list(tasks))  # nothing is left to do
    assert len(finished(UNITS, plain, cache=tmp_path, label="test")) == 12
    pd.testing.assert_frame_equal(run(tmp_path), found, check_exact=True)


# -- nothing lost ------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_in_mid_unit_is_replaced_and_its_unit_begins_again(two, tmp_path, undisturbed):
    compute = partial(plain, at=5, do="die", output=tmp_path / "mark")
    pd.testing.assert_frame_equal(run(tmp_path, compute), undisturbed, check_exact=True)
    assert (tmp_path / "mark").exists()


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_named_and_the_others_are_kept(two, tmp_path, undisturbed):
    with pytest.raises(InputError, match=r"^test: 4 workers died in turn of u5, most often because the memory was"):
        run(tmp_path, partial(plain, at=5, do="die"))
    assert len(list(tmp_path.glob("*/u*.parquet"))) >= 5
    pd.testing.assert_frame_equal(run(tmp_path), undisturbed, check_exact=True)


@pytest.mark.parametrize(("do", "error"), [("fail", ZeroDivisionError), ("refuse", InputError)])
def test_what_a_unit_raises_is_raised_here_and_finished_units_are_kept(two, tmp_path, undisturbed, do, error):
    compute = partial(plain, at=9, do=do, output=tmp_path / "mark")
    with pytest.raises(error, match=r"in a unit|The disk is full"):
        run(tmp_path, compute)
    assert len(list(tmp_path.glob("*/u*.parquet"))) >= 7
    pd.testing.assert_frame_equal(run(tmp_path, compute), undisturbed, check_exact=True)


@pytest.mark.slow
def test_a_worker_whose_nurse_dies_too_is_replaced(tmp_path, undisturbed):
    with local_cluster(2, []) as local, at_address(local.scheduler_address):
        for nanny in list(local.workers.values()):
            local.sync(nanny.close)
        compute = partial(plain, at=5, do="die", output=tmp_path / "mark")
        pd.testing.assert_frame_equal(run(tmp_path, compute), undisturbed, check_exact=True)


def test_a_cluster_without_workers_is_given_up_in_one_sentence(two, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "LOST", 1)
    monkeypatch.setattr(workers.cluster(), "scheduler_info", lambda: {"workers": {}})
    with pytest.raises(InputError, match=r"^test: the cluster at .* has had no worker for 1 seconds; finished"):
        run(tmp_path, partial(plain, at=5, do="pause", output=tmp_path / "mark"))


def told(_: int) -> pd.DataFrame:
    names = ("TQDM_DISABLE", "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", workers.ADDRESS)
    return pd.DataFrame([{name: os.environ.get(name, "") for name in names}])


def test_a_worker_is_quiet_and_has_one_thread_and_this_process_keeps_its_progress(two, tmp_path):
    found = run(tmp_path, told, {"u0": 0}).iloc[0].to_dict()
    assert found == {
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_TRIM_THRESHOLD_": str(2**31),
        workers.ADDRESS: "",
    }
    assert "TQDM_DISABLE" not in os.environ


def faulted(megabytes: int) -> pd.DataFrame:
    """Pages that a worker asks of the system for a tensor, and for others of its size when that is gone."""
    asked = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(megabytes * 2**20, dtype=torch.uint8).add_(1)
        asked.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return pd.DataFrame({"pages": asked})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told to keep memory")
@pytest.mark.parametrize("megabytes", [8, 40, 128])
def test_a_worker_finds_the_memory_of_a_tensor_again_for_the_next(megabytes, two, tmp_path):
    pages = run(tmp_path, faulted, {"u0": megabytes})["pages"]
    assert pages[1:].sum() < megabytes * 2**20 / 4096 / 4


@pytest.mark.parametrize("file", ["Makefile", "docs/scale.md"])
def test_every_process_is_told_about_memory_what_a_worker_is(file):
    said = re.findall(r"^export (MALLOC\w+|GLIBC\w+) ?= ?(\S+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert dict(said) == cluster.MALLOC


DRIVER = """
import sys
sys.path[:0] = [sys.argv[1]]
from functools import partial
from pathlib import Path
from lib.run.cluster import at_address, local_cluster
import test_cluster as t

if __name__ == "__main__":
    cache = Path(sys.argv[2])
    with local_cluster(2, []) as local, at_address(local.scheduler_address):
        print("started", flush=True)
        t.run(cache, partial(t.plain, at=5, do="wait", output=cache / "mark"))
"""


def driver(cache: Path, **options) -> subprocess.Popen:
    cache.mkdir(exist_ok=True)
    (cache / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(cache / "driver.py"), HERE, str(cache)]
    clean = {name: value for name, value in os.environ.items() if name != workers.ADDRESS}
    clean["PYTHONPATH"] = str(ROOT)
    return subprocess.Popen(command, env=clean, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupt", "terminal", "kill"])
def test_a_driver_that_ends_leaves_no_worker_and_the_same_command_completes(tmp_path, undisturbed, how):
    cache = tmp_path / how
    with driver(cache) as process:
        wait_for(lambda: (cache / "mark").exists() and (cache / "mark").read_text())
        wait_for(lambda: len(list(cache.glob("*/u*.parquet"))) >= 8)
        busy = int((cache / "mark").read_text())
        assert is_alive(busy)
        if how == "terminal":  # Ctrl-C reaches every process that the terminal started
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGKILL)
        said = process.communicate(timeout=300)[1]
    if how != "kill":
        assert "test: interrupted; every finished unit is kept and only those in hand are repeated." in said
    wait_for(lambda: not is_alive(busy))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(workers.ADDRESS, raising=False)
        compute = partial(plain, at=5, do="wait", output=cache / "mark")
        pd.testing.assert_frame_equal(run(cache, compute), undisturbed, check_exact=True)


SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
WORKER = "from distributed.cli.dask_worker import main; main()"


def kill_after(cache: Path, process: subprocess.Popen) -> None:
    """Kill it when one unit waits and its worker has nothing else to do."""
    wait_for((cache / "mark").exists)
    process.kill()


@pytest.mark.slow
def test_a_scheduler_that_is_killed_is_one_sentence_and_the_same_command_completes(tmp_path, undisturbed):
    file = tmp_path / "scheduler.json"
    quiet = {"env": os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}"}, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", str(file)]
    start = [sys.executable, "-c", SCHEDULER, *options, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen(start, **quiet)
    helper = subprocess.Popen([sys.executable, "-c", WORKER, *options, "--nthreads", "1", "--no-dashboard"], **quiet)
    try:
        wait_for(file.exists)
        address = pd.read_json(file, typ="series")["address"]
        with at_address(address):
            compute = partial(plain, at=5, do="wait", output=tmp_path / "mark")
            killer = threading.Thread(target=kill_after, args=(tmp_path, scheduler))
            killer.start()
            with pytest.raises(InputError, match=f"^The cluster at {address} is gone; finished units are kept"):
                run(tmp_path, compute)
            killer.join()
        assert len(list(tmp_path.glob("*/u*.parquet"))) >= 5
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(workers.ADDRESS, raising=False)
            pd.testing.assert_frame_equal(run(tmp_path, compute), undisturbed, check_exact=True)
    finally:
        for process in (scheduler, helper):
            process.kill()
            process.wait()


# -- joining, and what is refused --------------------------------------------------------------------------------------


def test_a_cluster_that_is_there_is_joined(two, tmp_path):
    with workers_for(address=two.scheduler_address) as said:
        assert said.startswith(f"Workers: 2 of the cluster {two.scheduler_address}; dashboard http://127.0.0.1")
        assert len(run(tmp_path)) == 12


def test_clients_of_a_run_are_not_told_totals_in_place_of_workers():
    before = dict(os.environ)
    with at_address("tcp://127.0.0.1:1"):
        asked = "import dask, distributed; print(dask.config.get('distributed.client.scheduler-info-interval'))"
        said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "24h"
    assert dict(os.environ) == before


def test_one_worker_is_this_process_and_none_is_refused(monkeypatch):
    monkeypatch.delenv(workers.ADDRESS, raising=False)
    with workers_for(1) as said:
        assert (said, workers.cluster()) == ("Workers: 1, the notebook's own process", None)
    with pytest.raises(InputError, match=r"^WORKERS is 0; give the number of processes"), workers_for(0):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1"])
def test_an_address_where_no_cluster_answers_is_one_sentence(address, monkeypatch):
    monkeypatch.setattr(workers, "WAIT", "1s")
    with pytest.raises(InputError, match=f"^No cluster answers at {address}; start it"), workers_for(address=address):
        pass


def test_workers_of_other_versions_or_mixed_kinds_are_refused(two, tmp_path, monkeypatch):
    theirs = {"versions": workers.provenance.versions(), "device": "cpu"}
    found = {"tcp://a": theirs, "tcp://b": theirs | {"device": "cuda"}}
    monkeypatch.setattr(workers, "_asked", lambda *_: found)
    workers._environment_of.cache_clear()
    with pytest.raises(InputError, match="Some workers of the cluster have a GPU and some have none"):
        run(tmp_path)
    found["tcp://b"] = theirs | {"versions": theirs["versions"] | {"torch": "1.0"}}
    with pytest.raises(InputError, match=r"^Worker tcp://b has torch 1.0, this process .*; install the same"):
        run(tmp_path)


def test_workers_that_loaded_other_code_are_refused(two, tmp_path, monkeypatch):
    """As after an edit in the middle of a run: the workers still have what they loaded."""
    assert len(run(tmp_path / "before")) == 12
    monkeypatch.setattr(workers, "source_digest", lambda module: "of the edited code")
    with pytest.raises(InputError, match=r"^A worker has other code of test_cluster than this notebook"):
        run(tmp_path / "after")


def test_workers_that_do_not_see_the_folder_are_refused(two, tmp_path, monkeypatch):
    workers._require_shared.cache_clear()
    monkeypatch.setattr(workers, "_asked", lambda client, function, *_: {"tcp://a": False})
    monkeypatch.setattr(workers, "unit_environment", workers.provenance.environment)
    with pytest.raises(InputError, match=r"^Worker tcp://a does not see .*; all machines of a cluster must share"):
        run(tmp_path)


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [(16, 25, 2), (2, 64, 2), (4, 1, 1), (12, 130, 12)])
def test_as_many_workers_as_cores_and_memory_allow(cores, gigabytes, expected, monkeypatch):
    monkeypatch.setattr("dask.system.cpu_count", lambda: cores)
    monkeypatch.setattr("distributed.system.memory_limit", lambda: gigabytes * 10**9)
    assert cluster.affordable(0) == expected
    assert cluster.affordable(3) == 3


@pytest.mark.parametrize("profile", RECORDS)
def test_no_process_of_a_record_took_more_than_a_worker_is_given(profile):
    record = json.loads((ROOT / "results" / profile / "provenance.json").read_text(encoding="utf-8"))
    assert max(entry.get("peak_memory_mb", 0) for entry in record.values()) / 1000 < cluster.WORKER_GB


def test_gpus_are_those_that_cuda_may_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cluster.visible_gpus() == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cluster.visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8a")
    assert cluster.visible_gpus() == ["2", "GPU-8a"]


def seen(_: int) -> pd.DataFrame:
    return pd.DataFrame({"gpu": [os.environ.get("CUDA_VISIBLE_DEVICES", "")], "worker": [os.getpid()]})


@pytest.mark.slow
def test_each_gpu_has_a_worker_of_its_own(tmp_path):
    with local_cluster(2, ["4", "7"]) as local, at_address(local.scheduler_address):
        told = workers.cluster().run(seen, 0)
    assert sorted(rows["gpu"][0] for rows in told.values()) == ["4", "7"]


def slurm(**said):
    """What ~/.config/dask/jobqueue.yaml may say of a job."""
    import dask_jobqueue  # which knows the rest

    return dask_jobqueue.config.dask.config.set({f"jobqueue.slurm.{name}": value for name, value in said.items()})


def test_a_job_of_slurm_has_one_worker_of_one_thread_a_core(tmp_path, monkeypatch):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ncp $1 {tmp_path}/job\necho Submitted batch job 7\n")
    sbatch.chmod(0o755)
    (tmp_path / "scancel").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/cancelled\n")
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with slurm(cores=4, memory="16GB", queue="long", walltime="02:00:00"), cluster.slurm_cluster(8) as jobs:
        wait_for((tmp_path / "job").exists)
        script = jobs.job_script()
        assert (tmp_path / "job").read_text().splitlines()[:5] == script.splitlines()[:5]
    lines = script.splitlines()
    assert {"#SBATCH -p long", "#SBATCH -t 02:00:00", "#SBATCH --cpus-per-task=4"} <= set(lines)
    (command,) = [line for line in lines if "dask_worker" in line]
    assert command.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://")
    assert " --nthreads 1 " in command
    assert " --nworkers 4 " in command
    before = lines[: lines.index(command)]
    assert f"cd {ROOT}" in before
    assert {"export OMP_NUM_THREADS=1", "export MALLOC_TRIM_THRESHOLD_=2147483648"} <= set(before)
    assert (tmp_path / "cancelled").read_text() == "7\n"


def test_slurm_without_cores_or_memory_is_one_sentence():
    with slurm(cores=None, memory="16GB"), pytest.raises(InputError, match=r"^SLURM needs the cores and the memory"):
        cluster.slurm_cluster(8).__enter__()
