"""What `make explore` starts: JupyterLab for this machine, beside workers that its kernels find."""

import contextlib
import signal

import pytest

from lib import ROOT, InputError
from lib.data.image_files import BYTES
from lib.run import explore
from lib.store.workers import ADDRESS


class Lab:
    """Stands in for the process of JupyterLab."""

    started: tuple = ()

    def __init__(self, command, *, cwd, env):
        Lab.started = command, cwd, env

    def wait(self) -> int:
        return 3


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    @contextlib.contextmanager
    def workers(count):
        if count < 1:
            raise InputError(f"WORKERS is {count}")
        monkeypatch.setenv(ADDRESS, f"tcp://127.0.0.1:{count}")
        yield f"Workers: {count}"
        monkeypatch.delenv(ADDRESS)

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(explore, "workers_for", workers)
    monkeypatch.setattr(explore, "affordable", lambda gpus: 64)
    monkeypatch.setattr(explore.subprocess, "Popen", Lab)
    yield
    for each, handler in handlers.items():
        signal.signal(each, handler)


def test_lab_opens_the_notebook_for_this_machine_only(capsys):
    assert explore.open_explorer(["--no-browser", "--port=1234"]) == 3
    command, folder, env = Lab.started
    assert command[1:5] == ["-m", "jupyter", "lab", "notebooks/explore.ipynb"]
    assert (ROOT / command[4]).is_file()
    assert folder == ROOT
    assert {"--ip=127.0.0.1", "--no-browser", "--port=1234"} <= set(command)
    assert env[ADDRESS] == "tcp://127.0.0.1:8"  # more are not needed
    assert env["OMP_NUM_THREADS"] == "1"
    assert capsys.readouterr().out == "Workers: 8\n"


def test_an_image_of_the_largest_size_fits_into_a_message():
    explore.open_explorer([])
    (setting,) = [option for option in Lab.started[0] if "websocket_max_message_size" in option]
    assert int("".join(filter(str.isdigit, setting))) > BYTES


def test_workers_and_notebook_can_be_chosen(capsys):
    explore.open_explorer(["--workers", "2", "--notebook", "notebooks/own_network.ipynb"])
    command, _, env = Lab.started
    assert command[4] == "notebooks/own_network.ipynb"
    assert env[ADDRESS] == "tcp://127.0.0.1:2"
    assert explore.open_explorer(["--workers", "0"]) == 2
    assert capsys.readouterr().err == "WORKERS is 0\n"
