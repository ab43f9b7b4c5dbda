"""What there is to do: a profile of the study, and its notebooks with their parameters."""

import sys
from dataclasses import dataclass
from pathlib import Path

from lib import ROOT, InputError, nearest
from lib.run.notebooks import study_notebooks
from lib.run.parameters import declared, read_overrides, resolve

PACKAGED, OWN_IMAGES = ("smoke", "laptop"), ("sample", "imagenet")
DATA = ("images", "weights", "nhanes", "datasets")  # decided by the command line
LEFT_OUT = "left_out"  # in params/<profile>/<notebook>.yaml: why the notebook is no part of this profile
_PACKAGED_DATA = {
    "images": ("IMAGENET", "packaged photographs"),
    "nhanes": ("NHANES", "a packaged table"),
    "datasets": ("DATASETS", "packaged digits"),
}
_PHOTOGRAPHS = "This needs ImageNet photographs of your own: IMAGENET=/folder/with/them."
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
    workers: int | None = 1  # processes that compute; None: as many as cores and memory allow
    cluster: str = ""  # address of the scheduler of a running cluster, joined instead

    @property
    def results(self) -> Path:
        return self.output / "results" / self.profile

    @property
    def committed(self) -> Path:
        return self.root / "results" / self.profile

    def copy(self, name: str) -> Path:
        return self.results / "notebooks" / f"{name}.ipynb"

    def state(self, name: str) -> Path:
        return self.output / ".cache" / "state" / self.profile / f"{name}.json"

    def products(self) -> dict[str, Path]:
        """Result and figure files of this profile, by their path below `output`."""
        folders = (self.results, self.output / "figures" / self.profile)
        found = [path for folder in folders for path in sorted(folder.glob("[!.]*"))]
        files = [path for path in found if path.is_file() or path.suffix == ".parquet"]  # the parts of a large table
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
    needs: str = ""  # what was not given and it cannot run without, or why the profile leaves it out
    left_out: bool = False


def study(
    profile: str,
    *,
    images: str = "",
    weights: str = "",
    nhanes: str = "",
    datasets: str = "",
    output: str = "",
    workers: int | None = 1,
    cluster: str = "",
    planned: bool = False,
    root: Path = ROOT,
) -> Study:
    """Check the command line's choices; raises InputError for an unknown profile, and for missing data of one's own
    unless the run is only planned.
    """
    folders = (path.name for path in (root / "params").glob("*") if path.is_dir())
    profiles = sorted({*PACKAGED, *OWN_IMAGES, *folders})
    if profile not in profiles:
        raise InputError(f"There is no PROFILE={profile} among {', '.join(profiles)}; {nearest(profile, profiles)}")
    if profile in OWN_IMAGES and not (images or nhanes or datasets or planned):
        raise InputError(_NO_PHOTOGRAPHS.format(profile=profile))
    own = {"images": images, "weights": weights, "nhanes": nhanes, "datasets": datasets}
    for name, (option, packaged) in _PACKAGED_DATA.items():
        if profile in PACKAGED and own[name]:
            print(f"{option} is not used: profile {profile} has {packaged}.", file=sys.stderr)
            own[name] = ""
    found = {name: str(Path(path).expanduser().resolve()) if path else "" for name, path in own.items()}
    found["images"] = found["images"] or "packaged"
    return Study(root, profile, Path(output or root).expanduser().resolve(), **found, workers=workers, cluster=cluster)


def jobs_of(this: Study, only: str = "") -> list[Job]:
    """The notebooks to consider, `report` last; `only` names some, separated by blanks or commas.

    A notebook that its profile leaves out is among them, so that the record can say why it was not run.

    Raises InputError for a notebook, parameter or value that does not exist or fit, before anything has run.
    """
    paths, strays, broken = study_notebooks(this.root / "notebooks")
    if not paths:
        raise InputError("There are no files notebooks/*.ipynb that can be run; type this in a complete checkout.")
    wanted = only.replace(",", " ").split()
    overridden = [path.stem for path in sorted((this.root / "params" / this.profile).glob("*.yaml"))]
    for path in (this.root / "params" / this.profile).glob("*.yml"):
        raise InputError(f"params/{this.profile}/{path.name} is not read; name it {path.stem}.yaml.")
    for name in [*wanted, *overridden]:
        if name in wanted and name in strays | broken:
            raise InputError(broken.get(name) or f"ONLY names {name}.ipynb, which is skipped: {strays[name]}.")
        if name not in [*paths, *broken]:
            where = "ONLY" if name in wanted else f"The file name params/{this.profile}/{name}.yaml"
            raise InputError(f"{where} names no notebook {name!r}; {nearest(name, paths)}")
    return [_job(this, paths[name]) for name in sorted(set(wanted or paths), key=lambda n: (n == "report", n))]


def _job(this: Study, path: Path) -> Job:
    known = declared(path)
    where = f"params/{this.profile}/{path.stem}.yaml"
    output = "." if this.output == this.root else str(this.output)  # notebooks run in the root
    chosen = {"profile": this.profile, "output": output} | {name: getattr(this, name) for name in DATA}
    overrides = read_overrides(this.root / where)
    left_out = overrides.pop(LEFT_OUT, "")
    if not isinstance(left_out, str):
        raise InputError(f"{where} sets {LEFT_OUT} to {left_out!r}; say in a few words why the profile leaves it out.")
    for name in overrides:
        if name in chosen:
            raise InputError(f"{where} sets {name}, which the command line decides; remove that line.")
    given = overrides | {name: value for name, value in chosen.items() if name in known}
    values = resolve(known, given, where=where)
    blind = this.profile in OWN_IMAGES and this.images == "packaged" and "images" in known
    needs = left_out or (_PHOTOGRAPHS if blind else "")
    return Job(path.stem, path, values, {name: values[name] for name in given}, needs, bool(left_out))
