"""Weight files as people have them, and what is said about files that are none."""

import argparse
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib import InputError
from lib.models.checkpoints import load_weights, read_weights


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))


def part(state: dict) -> dict:
    return {name.replace("2.", "2.module.", 1) if name.startswith("2.") else name: state[name] for name in state}


FORMS = {
    "plain": lambda state: state,
    "wrapped": lambda state: {f"module.{name}": state[name] for name in state},
    "wrapped in part": part,
    "compiled and wrapped": lambda state: {f"module._orig_mod.{name}": state[name] for name in state},
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best_acc1": 71.0, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.3},
    "state_dict_ema": lambda state: {"state_dict_ema": state, "arch": "x"},
    "twice": lambda state: {"model": {"state_dict": {f"module.{name}": state[name] for name in state}, "step": 9}},
    "older": lambda state: {name: state[name] for name in state if "num_batches_tracked" not in name},
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_loads(tmp_path, form, new):
    own = network(1).state_dict()
    torch.save(form(own), tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    loaded = load_weights(network(0), tmp_path / "w.pth").state_dict()
    assert all(torch.equal(loaded[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("0.bias"), r"it has nothing for 0\.bias where the network has \(2,\)"),
        (lambda s: s.update(extra=torch.zeros(2)), r"it has \(2,\) for extra where the network has nothing"),
        (lambda s: s.update({"0.bias": torch.zeros(4)}), r"\(4,\) for 0\.bias where the network has \(2,\)"),
        (lambda s: s.pop("1.running_mean"), r"nothing for 1\.running_mean"),
        (lambda s: [s.pop(name) for name in list(s)[:5]] and s.update(a=torch.ones(1)), "; and 3 more: give"),
    ],
)
def test_what_differs_is_named(tmp_path, change, said):
    state = dict(network().state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pth")
    model = network(1)
    before = model[0].weight.clone()
    with pytest.raises(InputError, match=said):
        load_weights(model, tmp_path / "w.pth")
    assert torch.equal(model[0].weight, before)


def saved(content):
    return lambda file: torch.save(content, file)


def cut(file, **options):
    torch.save(network().state_dict(), file, **options)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def archive(file):
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("a.txt", "x")


OTHERS = {
    "module": (saved(network()), r"Python objects .*torch.nn.*weights_only=False.*state_dict\(\)"),
    "namespace": (saved({"model": {}, "args": argparse.Namespace(lr=1)}), r"Python objects .*argparse\.Namespace"),
    "list": (saved([1]), "holds a list, not a state dict"),
    "tensor": (saved(torch.ones(2)), "holds a Tensor, not a state dict"),
    "nothing": (saved({}), "holds an empty mapping"),
    "with numbers": (saved({"weight": torch.ones(1), "epoch": 3}), "because epoch in it is no tensor"),
    "empty": (lambda file: file.write_bytes(b""), "is empty: download it again"),
    "git lfs": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "type `git lfs pull`"),
    "page": (lambda file: file.write_text("\n<!DOCTYPE html>404"), "is a web page"),
    "text": (lambda file: file.write_text("hello"), "is not a file of torch.save"),
    "archive": (archive, "is not a file of torch.save"),
    "safetensors": (lambda file: save_file(network().state_dict(), file), r"one of safetensors: type .*load_file"),
    "folder": (lambda file: file.mkdir(), "cannot be read"),
}


@pytest.mark.parametrize(("write", "said"), OTHERS.values(), ids=OTHERS)
def test_other_files_are_called_by_what_they_are(tmp_path, write, said):
    write(tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"w\.pth .*{said}") as caught:
        read_weights(tmp_path / "w.pth")
    assert "intact" not in str(caught.value)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_only_a_damaged_file_should_be_intact(tmp_path, new):
    cut(tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r"damaged, .*give an intact file"):
        read_weights(tmp_path / "w.pth")


def test_reading_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="print"):
        read_weights(tmp_path / "w.pth")
