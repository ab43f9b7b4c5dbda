"""`make reproduce` on two workers: the tables of a run in one process, also after it was interrupted or killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from lib import ROOT
from lib.store import workers

NOTEBOOK = "xdnn_contrast"
pytestmark = pytest.mark.slow


def command(output, count: int) -> list[str]:
    options = ["--profile", "smoke", "--only", NOTEBOOK, "--workers", str(count), "--output", str(output)]
    return [sys.executable, "-m", "lib.run", "reproduce", *options]


def run(output, count: int) -> pd.DataFrame:
    clean = {name: value for name, value in os.environ.items() if name != workers.ADDRESS}
    told = subprocess.run(command(output, count), cwd=ROOT, env=clean, capture_output=True, text=True, timeout=1200)
    assert told.returncode == 0, told.stdout + told.stderr
    if count > 1:
        assert f"Workers: {count}, one thread each; dashboard http://127.0.0.1:" in told.stdout
    return pd.read_parquet(output / "results" / "smoke" / f"{NOTEBOOK}.parquet")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), 1)


def test_the_tables_are_those_of_one_process_and_the_workers_are_recorded(alone, tmp_path):
    pd.testing.assert_frame_equal(run(tmp_path, 2), alone, check_exact=True)
    record = json.loads((tmp_path / "results" / "smoke" / "provenance.json").read_text())[NOTEBOOK]
    assert record["workers"] == 2
    assert record["units"] >= 2 and record["unit_seconds"] > 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_off_leaves_no_process_and_the_same_command_completes_it(alone, tmp_path, how):
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command(tmp_path, 2), start_new_session=True, **options) as process:
        end = time.monotonic() + 300
        while not list(tmp_path.rglob(".cache/units/*/*.parquet")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # Ctrl-C reaches the workers, too
        else:
            process.send_signal(how)
        said = process.communicate(timeout=300)[0]
    if how is not signal.SIGKILL:
        assert process.returncode == 130
        assert "type the same command again to continue" in said
    end = time.monotonic() + 300
    while left := _processes_about(str(tmp_path)):
        assert time.monotonic() < end, left
        time.sleep(0.2)
    kept = len(list(tmp_path.rglob(".cache/units/*/*.parquet")))
    assert kept >= 1
    pd.testing.assert_frame_equal(run(tmp_path, 2), alone, check_exact=True)


def _processes_about(folder: str) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if folder in line]
