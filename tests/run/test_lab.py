"""`make lab`: JupyterLab answers this machine only, and nobody without its token."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from lib import ROOT


def status(url: str) -> int:
    """The HTTP status of an address, asked until something answers there."""
    end = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except urllib.error.URLError:
            assert time.monotonic() < end, url
            time.sleep(0.2)


@pytest.mark.slow
def test_lab_listens_on_this_machine_and_asks_for_its_token():
    command = ["make", "lab", f"PY={sys.executable}", "LAB=--no-browser --port=18765 --allow-root"]
    options = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}, **options) as process:
        try:
            said = ""
            while not (found := re.search(r"http://(127\.0\.0\.1|localhost):(\d+)/lab\S*\?token=(\w{40,})", said)):
                line = process.stderr.readline()
                assert line, said
                said += line
            port, token = int(found[2]), found[3]
            assert status(f"http://127.0.0.1:{port}/api/contents") == 403
            assert status(f"http://127.0.0.1:{port}/api/contents?token={token}") == 200
            outside = socket.gethostbyname(socket.gethostname())
            if not outside.startswith("127."):
                with pytest.raises(OSError), socket.create_connection((outside, port), timeout=5):
                    pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)
