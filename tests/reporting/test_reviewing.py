"""What reviewers are told: labels, tolerances, compute, checklists, and the cards of data and networks."""

import hashlib
import re
from importlib import metadata

import numpy as np
import pandas as pd
import pytest

from lib import ROOT
from lib.data.imagenet import photographs
from lib.models.recipes import NETWORKS
from lib.reporting import cards, reviewing
from lib.reporting.claims import COLUMNS, Claim, load_registry
from lib.reporting.deviation import allowed, interval_width
from lib.reporting.reviewing import reproducibility
from lib.run.verification import compare, timed_claims
from lib.store.files import read_yaml

ORDER = {"kind": "order", "a": {"rule": "idgi"}, "b": {"rule": "riemann"}, "where": {}}
EXACT = {"kind": "bound", "statistic": "max", "at_most": 1e-6}


def claim(name="C1", **test) -> Claim:
    return Claim(name, "idgi", "A statement.", "text", "nb", test)


@pytest.mark.parametrize(
    ("test", "data", "label"),
    [
        (ORDER | {"where": {"path": "straight", "metric": "insertion"}}, "photographs", "deterministic"),
        (ORDER | {"where": {"path": ["straight", "guided"]}}, "photographs", "stochastic (Guided IG)"),
        (ORDER | {"where": {"path": ["guided", "adversarial"]}}, "paper", "stochastic (Guided IG, AGI)"),
        (ORDER | {"b": {"path": "adversarial"}}, "digits", "stochastic (training, AGI)"),
        (ORDER | {"where": {"metric": "insertion"}}, "table", "stochastic (training)"),
        (ORDER | {"a": {"attack": "random1"}, "b": {"attack": "top_k"}}, "photographs", "stochastic (attack)"),
        (ORDER | {"where": {"metric": "seconds"}}, "digits", "stochastic (clock)"),
        (EXACT | {"where": {"path": "guided", "metric": "completeness"}}, "", "deterministic"),
        (EXACT | {"where": {"metric": "crossing_off", "data": "table"}}, "", "stochastic (training)"),
        ({"kind": "agree", "claims": ["C2"]}, "photographs", "stochastic (Guided IG)"),
    ],
)
def test_a_label_follows_from_the_test_and_the_data(test, data, label):
    other = claim("C2", **(ORDER | {"where": {"path": "guided"}}))
    assert reproducibility(claim(**test), data, [claim(**test), other]) == label


def test_what_is_about_all_papers_together_is_about_all_paths():
    asked = Claim("C1", "cross", "A statement.", "ours", "nb", ORDER)
    assert reproducibility(asked, "photographs", [asked]) == "stochastic (Guided IG, AGI)"


def test_the_claims_by_the_clock_are_those_that_are_not_compared():
    registry = load_registry()
    labelled = {each.id for each in registry if reproducibility(each, "photographs", registry) == "stochastic (clock)"}
    assert labelled == {*timed_claims(ROOT / "params" / "claims.yaml")} != set()


def verdicts(**changed) -> pd.DataFrame:
    nothing = float("nan")
    rows = {
        "claim": ["C1", "C1", "C2", "C3"],
        "metric": ["insertion", "aic_png", "", ""],
        "notebook": ["nb", "nb", "nb", "other"],
        "protocol": ["corrected", "corrected", "any", "any"],
        "data": ["photographs", "photographs", "", ""],
        "network": ["paper", "net", "", ""],
        "estimate": [0.5, -0.25, 3e-9, nothing],
        "ci_low": [0.4, -0.3, nothing, nothing],
        "ci_high": [0.7, -0.2, nothing, nothing],
        "verdict": ["reproduced", "fails here", "holds here", "not run"],
        "note": ["", "", "", "other is still to be written"],
    }
    return pd.DataFrame(dict.fromkeys(COLUMNS, "") | rows | changed)[COLUMNS]


REGISTRY = [claim("C1", **ORDER), claim("C2", **EXACT), claim("C3", **ORDER)]
USED = {"seconds": 90.0, "own_seconds": 15.0, "workers": 2, "units": 7, "unit_seconds": 1785.0, "peak_memory_mb": 2345}


def test_each_verdict_has_a_line_with_command_minutes_number_and_tolerance():
    block = reviewing.checks_block("sample", verdicts(), {"nb": USED}, REGISTRY)
    said, *lines = [line for line in block.splitlines() if line and not line.startswith(("| claim", "| ---"))]
    assert said == "2 claims, 3 verdicts: 3 deterministic."
    command = "make claim-{} PROFILE=sample IMAGENET=imagenet-sample-images"
    assert lines == [
        "<details><summary><b>nb</b>: 1.5 min, 2 claims</summary>",
        # .01 (.5 + .3) and .01 (.25 + .1)
        f"| C1 | `{command.format('C1')}` | 1.5 | insertion, photographs, the paper's network | corrected "
        "| 0.500 ± 0.008 | reproduced | deterministic |",
        "|  |  |  | aic_png, photographs, net | corrected | -0.250 ± 0.0035 | fails here | deterministic |",
        f"| C2 | `{command.format('C2')}` | 1.5 |  | any "
        "| at most 1e-06 (here 3.00e-09) | holds here | deterministic |",
        "</details>",
        "<details><summary><b>other</b>: not run, 1 claims</summary>",
        f"| C3 | `{command.format('C3')}` |  |  | any | – | not run (other is still to be written) |  |",
        "</details>",
    ]


def test_what_the_registry_no_longer_has_cannot_be_checked():
    assert "C2" not in reviewing.checks_block("laptop", verdicts(), {}, [REGISTRY[0], REGISTRY[2]])


@pytest.mark.parametrize(("share", "agrees"), [(0.98, True), (1.02, False)])
def test_the_tolerance_that_is_told_is_that_of_verify(share, agrees):
    table = verdicts()
    room = allowed(table["estimate"], interval_width(table))
    assert room[:2].tolist() == pytest.approx([0.008, 0.0035]) and np.isinf(room[2])
    moved = table.assign(estimate=table["estimate"] + share * room.where(np.isfinite(room), 0))
    assert compare(table, moved).startswith("DIFFERS") is not agrees


def test_an_exact_claim_is_told_by_its_verdict():
    table = verdicts()
    other = table["estimate"].where(table["claim"] != "C2", 8e-10)
    assert "DIFFERS" not in compare(table, table.assign(estimate=other))
    assert "DIFFERS" in compare(table, table.assign(verdict=["reproduced", "fails here", "fails here", "not run"]))
    assert "DIFFERS" in compare(
        table, table.assign(estimate=other.where(other > 0))
    )  # a number that is no longer there


def test_compute_is_summed_over_the_notebooks_that_ran():
    versions = {"python": "3.11.7", "torch": "2.14.1"}
    record = {
        "a": USED | {"device": "cpu", "versions": versions},
        "b": USED | {"workers": 4},
        "c": {"needs": "weights"},
    }
    line = reviewing.compute_block({"laptop": record}).splitlines()[-1]
    # 2 (15 + 1785) s = 1 h
    assert line == "| `laptop` | 2 | 14 | 1.0 | 1.0 | 2, 4 | 2.3 GB | cpu | 3.11.7 | 2.14.1 |"


CHECKLIST = read_yaml(reviewing.CHECKLISTS)
ASKING = "ML code completeness, Pineau, NeurIPS, ACM available, ACM functional, ACM reusable, ACM reproduced, cTuning, "
ASKING += "TMLR, MLRC, ReScience, NDSS, REFORMS"


def headings(path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("entry", CHECKLIST, ids=lambda entry: entry["item"][:40])
def test_every_requirement_is_answered_and_its_link_exists(entry):
    assert set(entry) == {"item", "asked_by", "met", "answer", "link"}
    assert entry["met"] in ("fully", "partly", "not") and entry["answer"].endswith(".")
    path, _, heading = entry["link"].partition("#")
    assert (ROOT / path).exists()
    assert not heading or heading in headings(ROOT / path)


def test_all_checklists_are_answered():
    asked = {re.sub(r" \d+$", "", who) for entry in CHECKLIST for who in entry["asked_by"]}
    assert asked == set(ASKING.split(", "))
    assert len({entry["item"] for entry in CHECKLIST}) == len(CHECKLIST)


def between(page: str, name: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def test_the_page_shows_the_checklists_and_the_tolerance_of_today():
    assert between("REVIEWING.md", "checklists") == reviewing.checklists_block(reviewing.CHECKLISTS)
    assert between("REVIEWING.md", "tolerance") == reviewing.tolerance_block()


def test_the_cards_show_the_packages_that_are_installed():
    blocks = cards.card_blocks({})
    assert between("cards.md", "data") == blocks["data"]
    assert between("cards.md", "weights") == blocks["weights"]


def digest_of(block: str, what: str) -> str:
    return next(re.findall(r"`(\w{64})`", line)[0] for line in block.splitlines() if what in line)


def test_the_digests_are_those_of_the_files_that_are_read():
    blocks = cards.card_blocks({})
    files = sorted(photo.path for photo in photographs("packaged"))
    whole = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert digest_of(blocks["data"], "photographs") == whole
    for number in range(3):  # the files' names hold the beginnings of their digests
        name = f"efficientnet_lite{number}"
        told = re.search(r"-(\w{8})\.pth", NETWORKS[name].weights)[1]
        assert digest_of(blocks["weights"], name).startswith(told)


@pytest.mark.parametrize(
    ("fields", "files", "said"),
    [
        ("License-Expression: BSD-3-Clause\nLicense: other", {}, "BSD-3-Clause"),
        ("License: MIT License\n         and its text", {}, "MIT License"),
        ("License: UNKNOWN", {"LICENSE": "\nApache 2.0\n\nCopyright"}, "Apache 2.0 (its licence file)"),
        ("Author: somebody", {"LICENSE": "\n"}, "not stated"),
        ("Author: somebody", {"README": "MIT"}, "not stated"),
    ],
)
def test_a_licence_is_what_a_package_states(tmp_path, fields, files, said):
    folder = tmp_path / "made_up-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-up\nVersion: 1\n{fields}\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "RECORD").write_text("".join(f"made_up-1.dist-info/{file.name},,\n" for file in folder.iterdir()))
    assert cards.stated_licence(metadata.PathDistribution(folder)) == said


def test_exclusions_are_named_with_their_reasons():
    lost = {"excluded": {"n01": "there is no photograph of this class"}}
    said = cards.exclusions_block({"sample": {"a": lost, "b": lost}, "laptop": {"a": {}}}).splitlines()
    assert said == [
        "* `sample`: n01: there is no photograph of this class (in 2 notebooks).",
        "* `laptop`: none.",
    ]
