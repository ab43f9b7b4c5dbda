"""PROFILE=imagenet on a made-up ImageNet tree, with weights that know one class, on two workers."""

import io
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import nn

from lib import ROOT
from lib.data.imagenet import wnid
from lib.models.recipes import NETWORKS, TWINS
from lib.models.twins import bare_network
from lib.run.commands import main
from lib.run.ledger import read_json
from lib.run.parameters import declared
from lib.run.study import LEFT_OUT
from lib.store.files import read_yaml

KNOWN = 0  # the class that all made-up networks see in every image
LAYOUTS = ("class folders", "names with a wnid", "validation names")


def photographs_in(folder, layout: str, count: int):
    """A tree of `count` random JPEGs of 64 x 64: the first half of class KNOWN, some of the second half corrupt."""
    generator = np.random.default_rng(0)
    inside = folder / "ILSVRC" / "Data" / "CLS-LOC" / "val" if layout == "validation names" else folder / "val"
    inside.mkdir(parents=True)
    lines = ["ImageId,PredictionString"]
    for k in range(count):
        of = wnid(KNOWN if k < count // 2 else 1 + 998 * k // count)
        name = f"ILSVRC2012_val_{k + 1:08}"
        lines.append(f"{name},{of} 1 2 3 4 {of} 5 6 7 8")
        if layout == "class folders":
            (inside / of).mkdir(exist_ok=True)
        file = {
            "class folders": inside / of / f"{name}.JPEG",
            "names with a wnid": inside / f"{name}_{of}.JPEG",
            "validation names": inside / f"{name}.JPEG",
        }[layout]
        content = io.BytesIO()
        # flat tiles and noise, so that a JPEG of it is not as an entropy coder wants it
        tiles = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(tiles).save(content, "JPEG", quality=80)
        corrupt = k in (3 * count // 4, 5 * count // 6) or (k > count // 2 and k % 7 == 0)
        file.write_bytes(content.getvalue()[: 400 if corrupt else None])
    if layout == "validation names":
        (folder / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    return folder


@torch.no_grad()
def knowing_one_class(model: nn.Module, size: int) -> dict:
    """The state of a randomly initialised network, its last layer such that KNOWN has a probability of about .9."""
    heads = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1000]
    x = torch.rand(2, 3, size, size)
    if not model.eval()(x).std():  # Fixup starts with a last layer of zeros
        nn.init.normal_(heads[-1].weight)
    heads[-1].weight *= 0.5 / model(x).std()
    if heads[-1].bias is not None:
        heads[-1].bias.zero_()
        heads[-1].bias[KNOWN] = np.log(9 * 999)
    return model.state_dict()


def weights_in(folder, names):
    """Files of made-up weights under their published names: of the zoo's networks and of the authors' pairs."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    for name in names:
        if name == "resnet50_pgd":
            state = knowing_one_class(torchvision.models.resnet50(), 224)
            robust = {f"module.model.{key}": value for key, value in state.items()}
            torch.save({"model": robust}, folder / "resnet50_pgd.pt")
        elif name in NETWORKS:
            recipe = NETWORKS[name]
            options = {"transform_input": True, "init_weights": False} if recipe.family == "inception" else {}
            state = knowing_one_class(torchvision.models.get_model(recipe.builder, **options), recipe.size)
            torch.save(state, folder / recipe.weights.rpartition("/")[2])
        else:
            state = knowing_one_class(bare_network(name), 224)
            torch.save({"state_dict": state}, folder / f"{name}_model_best.pth.tar")
    return folder


def project_in(folder, overrides: dict[str, dict]):
    """A project with the parameters of PROFILE=imagenet, but for `overrides`, and with this project's code."""
    folder.mkdir()
    (folder / "lib").symlink_to(ROOT / "lib")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "params" / "imagenet").mkdir(parents=True)
    for file in ("claims.yaml", "published.csv"):
        shutil.copy(ROOT / "params" / file, folder / "params" / file)
    for name, own in overrides.items():
        committed = ROOT / "params" / "imagenet" / f"{name}.yaml"
        given = (read_yaml(committed) if committed.exists() else {}) | own
        (folder / "params" / "imagenet" / f"{name}.yaml").write_text(yaml.safe_dump(given))
    return folder


def run(root, only, images, weights, capfd) -> str:
    asked = ["--profile", "imagenet", "--only", " ".join(only), "--images", str(images), "--weights", str(weights)]
    status = main(["reproduce", *asked, "--workers", "2", "--output", str(root / "out")], root=root)
    said = capfd.readouterr()
    assert status == 0, said.out + said.err
    return said.out


def printed(root, name: str) -> str:
    copy = nbformat.read(root / "out" / "results" / "imagenet" / "notebooks" / f"{name}.ipynb", as_version=4)
    return "".join(out.get("text", "") for cell in copy.cells if cell.cell_type == "code" for out in cell.outputs)


def test_one_of_them_on_photographs_of_ones_own(tmp_path, capfd):
    small = {"networks": ["mobilenet_v2"], "steps": 1, "limit": 4, "group": 1, "modes": ["corrected"]}
    project = project_in(tmp_path / "project", {"idgi_stability": small})
    images = photographs_in(tmp_path / "imagenet", "validation names", 40)
    said = run(project, ["idgi_stability"], images, weights_in(tmp_path / "weights", ["mobilenet_v2"]), capfd)
    assert "Workers: 2" in said
    assert re.search(r"idgi_stability: done in", said)
    results = project / "out" / "results" / "imagenet"
    scores = pd.read_parquet(results / "idgi_stability.parquet")
    assert set(scores["image"]) == {"ILSVRC2012_val_00000001", "ILSVRC2012_val_00000011"}  # those of the class it knows
    assert "1 of 4 photographs were excluded: ILSVRC2012_val_00000031" in printed(project, "idgi_stability")
    assert read_json(results / "provenance.json")["idgi_stability"]["workers"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xdnn_contrast", "lens_methods"])
def test_weights_that_are_missing_are_a_line_and_a_verdict(tmp_path, capfd, name):
    """The authors' pairs, and a PGD-trained network, none of which this project can download."""
    own = {"networks": ["resnet50_pgd"]} if name == "lens_methods" else {}
    project = project_in(tmp_path / "project", {name: own})
    images = photographs_in(tmp_path / "imagenet", "class folders", 20)
    there = ["resnet50"] if name == "lens_methods" else []  # which a PGD-trained one is compared with
    said = run(project, [name], images, weights_in(tmp_path / "weights", there), capfd)
    lacking = {"xdnn_contrast": "the weights of 'alexnet'", "lens_methods": "a PGD-trained ResNet-50"}[name]
    assert re.search(rf"{name}: not run: needs {lacking}.*WEIGHTS=<folder>.*\.\n", said)
    verdicts = pd.read_csv(project / "out" / "results" / "imagenet" / "claims.csv").set_index("notebook")
    assert set(verdicts.loc[name, "verdict"]) == {"not run"}
    assert verdicts.loc[name, "note"].str.startswith(f"needs {lacking}").all()


# What bounds the time of each notebook about photographs: the sizes of PROFILE=smoke, and for those that take thousands
# of passes a smaller network. The rest is as committed, the networks of the others among it.
SIZES = (
    *("limit", "digits_limit", "group", "audited", "untrained_photographs", "cost_units", "train", "test"),
    *(
        "steps",
        "samples",
        "points",
        "references",
        "digit_steps",
        "untrained_steps",
        "sweep",
        "paths",
        "photograph_paths",
    ),
    *("ig_limit", "ig_iterations", "invariant_steps"),
    *("iterations", "digit_iterations", "epsilons", "ig_epsilons", "digit_epsilons", "contrasts", "clusters", "seeds"),
    *("corrected_draws", "released_draws", "epochs", "permuted_epochs", "sizes", "count", "photograph_paths"),
    *("finest", "even", "budgets", "compared", "tolerance", "most", "profile_steps", "repeats"),
)
MOBILE, SMALL = ["mobilenet_v2"], ["resnet34", "mnist_cnn"]
SMALLER = {
    "cross_matrix": {"networks": MOBILE, "limit": 4, "group": 2, "points": 4, "ratios": 1, "insertion_steps": 2}
    | {"information_points": 3, "fractions": [0.5], "draws": 3},
    "idgi_axioms": {"limit": 1},
    "idgi_benchmark": {"steps": 2, "sweep": [1], "group": 1}
    | {f"{which}networks": MOBILE for which in ("", "sweep_", "released_", "webp_", "defect_")},
    "idgi_evaluations": {"networks": MOBILE, "logit_networks": [], "limit": 7},
    "idgi_maps": {"limit": 1},
    "idgi_stability": {"limit": 4, "group": 1, "steps": 2},
    "lens_attacks": {"network": "mobilenet_v2", "limit": 4, "invariant_steps": 2},
    "lens_aware_attack": {"network": "mobilenet_v2", "limit": 4},
    "lens_maps": {"network": "mobilenet_v2", "limit": 4},
    "lens_methods": {"networks": ["resnet50", "resnet50_pgd"], "limit": 4},
    "lpi_benchmark": {"networks": MOBILE, "limit": 4, "pool": 30, "group": 2, "clusters": 1}
    | {"samples": [5], "neighbourhoods": [1, 2]},
    "recalibration_maps": {"network": "mobilenet_v2", "steps": [1, 2], "points": 2},
    "recalibration_perturbation": {"networks": MOBILE, "limit": 4},
    "recalibration_sanity": {"networks": SMALL, "limit": 4, "points": 1},
    "recalibration_sensitivity_n": {"networks": SMALL, "mean_fill_networks": SMALL, "limit": 4},
    "xdnn_benchmark": {"limit": 4},
    "xdnn_contrast": {"limit": 4},
    "xdnn_equivalence": {"pairs": ["alexnet", "fixup_resnet50"], "limit": 4, "sweep": [], "steps": 2},
}


def left_out(name: str) -> bool:
    own = ROOT / "params" / "imagenet" / f"{name}.yaml"
    return own.exists() and LEFT_OUT in read_yaml(own)


NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if "images" in declared(path))
NOTEBOOKS = [name for name in NOTEBOOKS if not left_out(name)]


def test_every_notebook_about_photographs_takes_part_but_the_place_to_explore():
    assert left_out("explore")
    assert sorted(SMALLER) == NOTEBOOKS


def bounded(name: str) -> dict:
    smoke = read_yaml(ROOT / "params" / "smoke" / f"{name}.yaml")
    pool = {"pool": 20} if "pool" in declared(ROOT / "notebooks" / f"{name}.ipynb") else {}
    return {key: value for key, value in smoke.items() if key in SIZES} | pool | SMALLER[name]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    named = {*read_yaml(ROOT / "params" / "imagenet" / "idgi_stability.yaml")["networks"], "resnet34", "resnet50_pgd"}
    pairs = [name for pair in ("alexnet", "fixup_resnet50") for name in (pair, TWINS[pair])]
    return weights_in(tmp_path_factory.mktemp("weights"), [*sorted(named), *pairs])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3), ids=LAYOUTS)
def test_all_of_them_on_thousands_of_photographs_in_every_layout(tmp_path, capfd, weights, number):
    """A third of the notebooks on each layout."""
    images = photographs_in(tmp_path / "imagenet", LAYOUTS[number], 2000)
    names = NOTEBOOKS[number::3]
    project = project_in(tmp_path / "project", {name: bounded(name) for name in names})
    said = run(project, names, images, weights, capfd)
    results = project / "out" / "results" / "imagenet"
    known = re.compile(r"ILSVRC2012_val_\d{8}")
    verdicts = pd.read_csv(results / "claims.csv")
    for name in names:
        assert re.search(rf"{name}: done in", said), name
        (table,) = (file for file in results.glob(f"{name}.*") if file.suffix in (".csv", ".parquet"))
        scores = pd.read_csv(table) if table.suffix == ".csv" else pd.read_parquet(table)
        assert len(scores) > 0 and np.isfinite(scores["value"]).any()
        assert "image" not in scores or scores["image"].astype(str).str.contains(known).any(), name
        notes = verdicts[verdicts["notebook"] == name]["note"].astype(str)
        assert not notes.str.contains("has not been run|needs").any()
    assert any("photographs were excluded" in printed(project, name) for name in names)
