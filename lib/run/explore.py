"""`make explore`: JupyterLab for this machine only, and beside it the workers that compute what notebooks score."""

import argparse
import os
import signal
import subprocess
import sys

from lib import ROOT, InputError
from lib.data.image_files import BYTES
from lib.run.cluster import ONE_THREAD, affordable, visible_gpus, workers_for

NOTEBOOK = "notebooks/explore.ipynb"
MOST = 8  # workers, whatever the machine: more than units of the packaged photographs
# An uploaded file comes as one message, of which Tornado takes 10 MB unless it is told otherwise.
MESSAGES = f"--ServerApp.tornado_settings={{'websocket_max_message_size': {BYTES + 2**20}}}"


def open_explorer(arguments: list[str] | None = None) -> int:
    """Open the explorer; returns JupyterLab's exit status, 2 where workers cannot be started.

    arguments: --workers N, --notebook another one, and JupyterLab's own options
    """
    parser = argparse.ArgumentParser(prog="python -m lib.run.explore", description=__doc__)
    parser.add_argument("--workers", type=int, help="processes that compute; by default what cores and memory allow")
    parser.add_argument("--notebook", default=NOTEBOOK, help="what is opened; JupyterLab sees its folder")
    given, options = parser.parse_known_args(arguments)
    command = [sys.executable, "-m", "jupyter", "lab", given.notebook, "--ip=127.0.0.1", MESSAGES, *options]
    count = min(affordable(len(visible_gpus())), MOST) if given.workers is None else given.workers
    try:
        with workers_for(count) as said:
            print(said, flush=True)
            lab = subprocess.Popen(command, cwd=ROOT, env=os.environ | ONE_THREAD)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # JupyterLab has it too, and asks whether to end
            signal.signal(signal.SIGTERM, lambda *_: lab.terminate())
            return lab.wait()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(open_explorer())
