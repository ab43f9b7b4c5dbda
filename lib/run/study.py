"""What there is to do: a profile's notebooks, what decides their results, and whether that has changed."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lib import ROOT, InputError, nearest
from lib.run.parameters import declared, read_overrides, resolve
from lib.store import provenance
from lib.store.files import write_atomically

PACKAGED, OWN_IMAGES = ("smoke", "laptop"), ("sample", "imagenet")
DATA = ("images", "weights", "nhanes", "datasets")  # decided by the command line, compared by what they hold
REPORTED = ("claims.csv", "report.html")  # the report's own products, which a fresh clone holds before it ran
REASONS = {  # part of a fingerprint -> what is said when it differs
    "versions": "versions changed",
    "code": "code changed",
    "prose": "text changed",  # the units are kept, but an executed copy is to be read
    "parameters": "parameters changed",
    "shared": "parameters changed",
    "data": "data changed",
    "inputs": "new results",
}
_PACKAGED_DATA = {
    "images": ("IMAGENET", "packaged photographs"),
    "nhanes": ("NHANES", "a packaged table"),
    "datasets": ("DATASETS", "packaged digits"),
}
_NO_PHOTOGRAPHS = (
    "Profile {profile} needs your own ImageNet photographs: type make reproduce PROFILE={profile} "
    "IMAGENET=/folder/with/them, or use PROFILE=laptop, whose photographs are packaged."
)


@dataclass(frozen=True)
class Study:
    """One profile of the project at `root`, with its results below `output`."""

    root: Path
    profile: str
    output: Path
    images: str  # absolute folder or "packaged"
    weights: str  # absolute folder or file, or ""
    nhanes: str = ""  # absolute folder, or "" for the packaged table
    datasets: str = ""  # absolute folder of image sets in torchvision's layout, or ""

    @property
    def results(self) -> Path:
        return self.output / "results" / self.profile

    @property
    def committed(self) -> Path:
        return self.root / "results" / self.profile

    def expected_seconds(self, name: str) -> float | None:
        """What the notebook took according to the committed record, on the machine that made it."""
        return read_json(self.committed / "provenance.json").get(name, {}).get("seconds")

    def copy(self, name: str) -> Path:
        return self.results / "notebooks" / f"{name}.ipynb"

    def state(self, name: str) -> Path:
        return self.output / ".cache" / "state" / self.profile / f"{name}.json"

    def finished(self, name: str) -> str:
        return read_json(self.state(name)).get("finished", "never")

    def products(self) -> dict[str, Path]:
        """Result and figure files of this profile, by their path below `output`."""
        folders = (self.results, self.output / "figures" / self.profile)
        files = [path for folder in folders for path in sorted(folder.glob("[!.]*")) if path.is_file()]
        return {p.relative_to(self.output).as_posix(): p for p in files if p.name != "provenance.json"}

    def private(self) -> dict[str, str]:
        """{path of this machine: what stands for it in anything published}."""
        given = (self.images, self.weights, self.nhanes, self.datasets)
        own = {path: Path(path).name for path in given if Path(path).is_absolute()}
        folders = {sys.base_prefix: "<python>", sys.prefix: "<environment>", str(Path.home()): "~"}
        return folders | own | {str(self.output): ".", str(self.root): "."}


@dataclass(frozen=True)
class Job:
    """One notebook, ready to run."""

    name: str
    path: Path
    values: dict  # of all its parameters
    given: dict  # those that differ from its own defaults


def study(
    profile: str,
    *,
    images: str = "",
    weights: str = "",
    nhanes: str = "",
    datasets: str = "",
    output: str = "",
    root: Path = ROOT,
) -> Study:
    """Check the command line's choices; raises InputError for an unknown profile or missing data of one's own."""
    folders = (path.name for path in (root / "params").glob("*") if path.is_dir())
    profiles = sorted({*PACKAGED, *OWN_IMAGES, *folders})
    if profile not in profiles:
        raise InputError(f"There is no PROFILE={profile} among {', '.join(profiles)}; {nearest(profile, profiles)}")
    if profile in OWN_IMAGES and not (images or nhanes or datasets):
        raise InputError(_NO_PHOTOGRAPHS.format(profile=profile))
    own = {"images": images, "weights": weights, "nhanes": nhanes, "datasets": datasets}
    for name, (option, packaged) in _PACKAGED_DATA.items():
        if profile in PACKAGED and own[name]:
            print(f"{option} is not used: profile {profile} has {packaged}.", file=sys.stderr)
            own[name] = ""
    found = {name: str(Path(path).expanduser().resolve()) if path else "" for name, path in own.items()}
    found["images"] = found["images"] or "packaged"
    return Study(root, profile, Path(output or root).expanduser().resolve(), **found)


def jobs_of(this: Study, only: str = "") -> list[Job]:
    """The notebooks to consider, `report` last; `only` names some, separated by blanks or commas.

    Raises InputError for a notebook, parameter or value that does not exist or fit, before anything has run.
    """
    paths = {path.stem: path for path in sorted((this.root / "notebooks").glob("*.ipynb"))}
    if not paths:
        raise InputError("There are no files notebooks/*.ipynb; type this in a complete checkout.")
    wanted = only.replace(",", " ").split()
    overridden = [path.stem for path in sorted((this.root / "params" / this.profile).glob("*.yaml"))]
    for name in [*wanted, *overridden]:
        if name not in paths:
            where = "ONLY" if name in wanted else f"The file name params/{this.profile}/{name}.yaml"
            raise InputError(f"{where} names no notebook {name!r}; {nearest(name, paths)}")
    return [_job(this, paths[name]) for name in sorted(set(wanted or paths), key=lambda n: (n == "report", n))]


def _job(this: Study, path: Path) -> Job:
    known = declared(path)
    if this.profile in OWN_IMAGES and this.images == "packaged" and "images" in known:
        raise InputError(f"{_NO_PHOTOGRAPHS.format(profile=this.profile)[:-1]}; ONLY= can leave {path.stem} out.")
    where = f"params/{this.profile}/{path.stem}.yaml"
    output = "." if this.output == this.root else str(this.output)  # notebooks run in the root
    chosen = {"profile": this.profile, "output": output} | {name: getattr(this, name) for name in DATA}
    overrides = read_overrides(this.root / where)
    for name in overrides:
        if name in chosen:
            raise InputError(f"{where} sets {name}, which the command line decides; remove that line.")
    given = overrides | {name: value for name, value in chosen.items() if name in known}
    values = resolve(known, given, where=where)
    return Job(path.stem, path, values, {name: values[name] for name in given})


def fingerprint(this: Study, job: Job) -> dict[str, Mapping[str, object]]:
    """Everything that decides the results of a notebook, as {part: {name: hash or value}}."""
    notebook = nbformat.read(job.path, as_version=4)
    cells, prose = (
        "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind) for kind in ("code", "markdown")
    )
    own = read_json(this.state(job.name)).get("products", {})
    inputs = this.products() if job.name == "report" else {}
    parts = {
        "versions": provenance.decisive_versions(),
        "code": {
            f"notebooks/{job.path.name}": provenance.digest(cells),
            **provenance.code_hash(cells=cells, root=this.root),
        },
        "prose": {f"notebooks/{job.path.name}": provenance.digest(prose)},
        "parameters": {n: v for n, v in job.values.items() if n not in ("output", *DATA)},
        "shared": provenance.named_files(cells, this.root / "params", root=this.root),
        "data": {n: provenance.data_identity(job.values[n]) for n in DATA if n in job.values},
        "inputs": {name: _hash(path) for name, path in inputs.items() if name not in own and path.name not in REPORTED},
    }
    return json.loads(json.dumps(parts))  # as it will be read back: a tuple is a list


def why(this: Study, job: Job) -> str:
    """Reason to run a notebook; "" when all that decides its results, and the results, are unchanged."""
    state = read_json(this.state(job.name))
    if not state:
        return "never run here"
    new = fingerprint(this, job)
    old = {part: state["fingerprint"].get(part, {}) for part in new}  # an earlier version may not have noted all
    reasons = []
    for part, said in REASONS.items():
        names = [n for n in sorted({*old[part], *new[part]}) if old[part].get(n) != new[part].get(n)]
        reasons += [f"{said}: {_listed(names)}"] if names else []
    existing = this.products()
    lost = [name for name in state["products"] if name not in existing]
    altered = [n for n, known in state["products"].items() if n in existing and _hash(existing[n]) != known]
    reasons += [f"results missing: {_listed(lost)}"] if lost else []
    reasons += [f"results altered: {_listed(altered)}"] if altered else []
    return "; ".join(reasons)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def record(this: Study, job: Job, identity: dict, *, before: Mapping[str, int], used: dict) -> None:
    """Note a finished notebook: privately, to skip it next time; publicly, in provenance.json.

    before    {product: modification time} when it started: what has another one now was made by this notebook
    """
    made = {n: _hash(p) for n, p in this.products().items() if p.stat().st_mtime_ns != before.get(n)}
    hidden = this.private()
    settings = {n: hidden.get(v, v) if isinstance(v, str) else v for n, v in job.values.items()}
    public = {
        "code": provenance.digest(identity["code"]),
        "parameters": provenance.digest(identity["parameters"]),
        "settings": {name: value for name, value in settings.items() if name != "output"},
        "seed": job.values.get("seed"),
        "versions": provenance.versions(),
        **used,
    }
    ledger = this.results / "provenance.json"
    _write_json(ledger, read_json(ledger) | {job.name: public})
    finished = time.strftime("%Y-%m-%d %H:%M")
    _write_json(this.state(job.name), {"finished": finished, "fingerprint": identity, "products": made})


def read_json(path: Path) -> dict:
    """Content of a JSON file, {} when it does not exist or is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_json(path: Path, value: dict) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text + "\n")


def _hash(path: Path) -> str:
    return provenance.digest(path.read_bytes())
