"""Run one notebook: in this interpreter's kernel, with live progress, leaving an executed copy."""

import errno
import functools
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import ipykernel.kernelspec
import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from lib import InputError, MissingData
from lib.reporting.rendered import plain_table
from lib.run.cluster import ONE_THREAD
from lib.run.live import Line
from lib.run.notebooks import read_notebook
from lib.store.files import write_atomically

FULL = "The disk is full"  # how a sentence of `plain_file_errors` begins
FOOTPRINT = "import json\nfrom lib.store.provenance import footprint\nprint(json.dumps(footprint()))"


class NotebookError(Exception):
    """A notebook failed; the message is its last line."""


class ThisInterpreter(AsyncKernelManager):
    """Starts the Python that runs this, whatever kernel of the same name the user has registered."""

    all: ClassVar[WeakSet["ThisInterpreter"]] = WeakSet()

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.all.add(self)

    @property
    def kernel_spec(self) -> KernelSpec:
        # Without these a progress bar takes the size of a terminal that it shares with what `Live` says.
        bars = {"TQDM_NCOLS": "60", "TQDM_NROWS": "20"}
        utf8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}  # whatever this terminal is
        return KernelSpec(**ipykernel.kernelspec.get_kernel_dict(), env=bars | utf8 | ONE_THREAD)


saved: dict[str, str] = {}  # notebooks that run, by their paths


class InMemory:
    """Where papermill saves them: a disk may be full."""

    def write(self, text: str, path: str) -> None:
        saved[path] = text

    def pretty_path(self, path: str) -> str:
        return path


@functools.cache
def _papermill():
    import papermill  # half a second, not needed to plan
    from papermill.iorw import papermill_io

    papermill_io.register("memory://", InMemory())
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it has to say is in the error that it raises
    return papermill


def started(function: Callable[..., dict], *given, **named) -> Future:
    """function(*given, **named) in a thread of its own, which does not keep this process from ending."""
    future = Future()

    def body() -> None:
        try:
            future.set_result(function(*given, **named))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


def kill_kernels() -> None:
    """End the kernels of all notebooks that run; what these store, they store in one step or not at all."""
    for kernel in list(ThisInterpreter.all):
        process = getattr(kernel.provisioner, "process", None)  # None before it starts and after it has ended
        if process is not None:
            process.kill()


def execute(
    notebook: Path,
    copy: Path,
    *,
    parameters: Mapping,
    root: Path,
    private: Mapping[str, str],
    line: Line,
    stop: threading.Event,
) -> dict:
    """Run `notebook` with `parameters` in the folder `root`; leave the executed `copy`, return the footprint.

    private   {path of this machine: what stands for it in the copy}
    stop      set where its kernel was killed on purpose, which is no failure of the notebook
    Raises NotebookError with the notebook's last line; then the copy with the traceback is
    <name>.failed.ipynb and an earlier good copy is untouched. An interruption leaves neither.
    Raises MissingData where the notebook did, of which no copy is left. Raises InputError where the disk is full, which
    no other notebook would survive, or the copy cannot be written.
    """
    failed, path = copy.with_suffix(".failed.ipynb"), f"memory://{copy}"
    document = read_notebook(notebook)
    document.cells.append(nbformat.v4.new_code_cell(FOOTPRINT))
    try:
        done = _papermill().execute_notebook(
            document,
            path,
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            cwd=root,
            progress_bar=False,
            stderr_file=line,
            coalesce_streams=True,  # or every tick of a progress bar is stored
            kernel_manager_class=ThisInterpreter,
            extra_arguments=["--log-level=50"],  # or kernels warn of their transport and on Ctrl-C
        )
    except Exception as error:
        reason, kind = _last_line(error), getattr(error, "ename", "")
        if kind == MissingData.__name__:
            raise MissingData(reason) from error
        text = saved.pop(path, "")
        if text and not stop.is_set():
            write_atomically(failed, publishable(nbformat.reads(text, as_version=4), private))
        raise (InputError if reason.startswith(FULL) else NotebookError)(reason) from error
    saved.pop(path, None)
    footprint = json.loads(done.cells.pop().outputs[0].text)
    write_atomically(copy, publishable(done, private))
    failed.unlink(missing_ok=True)
    return footprint


def publishable(document: nbformat.NotebookNode, private: Mapping[str, str]) -> str:
    """The notebook as text, without times, progress, empty streams, the footprint cell and paths of this machine, and
    with tables that take less room.
    """
    document.cells = [cell for cell in document.cells if cell.source != FOOTPRINT]
    for holder in (document, *document.cells):
        holder.metadata.pop("papermill", None)
        holder.metadata.pop("execution", None)
    for cell in document.cells:
        if cell.cell_type == "code":
            for out in cell.outputs:
                if out.output_type == "stream" and out.name == "stderr":
                    out.text = _without_progress(out.text)
                if "text/html" in out.get("data", {}):
                    out.data["text/html"] = plain_table(out.data["text/html"])
            cell.outputs = [out for out in cell.outputs if out.output_type != "stream" or out.text.strip()]
    return json.dumps(_scrub(document, private), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _without_progress(text: str) -> str:
    """Standard error without progress bars, which leave their lines behind where one ran inside another."""
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]+", text)]
    kept = [line for line in lines if line and not re.search(r"\d+%\|.*\|", line)]
    return "".join(f"{line}\n" for line in kept)


def _scrub(value: object, private: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        return {key: item if key.startswith("image/") else _scrub(item, private) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrub(item, private) for item in value]
    if isinstance(value, str):
        value = re.sub(r"[^\s\"']*[/\\]ipykernel_\d+[/\\]\d+\.py", "<cell>", value)
        for path in sorted(private, key=len, reverse=True):  # an inner folder before the one that holds it
            spellings = {path, path.replace("\\", "\\\\"), path.replace("\\", "/")}  # those of Windows: quoted, in URLs
            pattern = "|".join(re.escape(each) for each in sorted(spellings, key=len, reverse=True))
            value = re.sub(f"(?:{pattern})" + r"(?![\w-])", lambda _, path=path: private[path], value)
    return value


def _last_line(error: Exception) -> str:
    """An InputError's sentence; the kind and last line of anything else that was raised."""
    name, message = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if name in (InputError.__name__, MissingData.__name__):
        return message
    if f"[Errno {errno.ENOSPC}]" in message:
        return f"{FULL}; free some space or give another OUTPUT= folder, and type the same command again."
    if name == "DeadKernelError":
        return "the kernel died, most often because the memory was used up"
    return f"{name}: {message.strip().splitlines()[-1]}" if message.strip() else name
