"""What LENS looks at, drawn and taken to known cases: perturbed maps of a few images, shifted maps, unrelated maps."""

import pandas as pd
import torch
from torch import Tensor

from lib.attacks import Attack, Method, attack, normalised, random_sign, raw_maps
from lib.experiments.subjects import Subject
from lib.metrics.chance import chance, with_chance
from lib.metrics.lens import locality
from lib.metrics.selection import diverse_top_k
from lib.seeds import image_generator


def perturbed_maps(
    of: Subject, *, method: Method, epsilon: float, k: int, step: float, iterations: int, seed: int = 0
) -> dict[str, Tensor]:
    """{"before", "random signs", "top-k attack"}: the maps (B, H, W) of the images and of two perturbed copies."""
    noisy = random_sign(of.x, epsilon=epsilon, images=of.images, seed=seed)
    how = Attack("top_k", epsilon=epsilon, step=step, iterations=iterations, k=k)
    attacked = attack(of.model, of.x, of.target, method, how, images=of.images, seed=seed)
    images = {"before": of.x, "random signs": noisy, "top-k attack": attacked.x}
    return {name: normalised(raw_maps(of.model, x, of.target, method)).cpu() for name, x in images.items()}


def compared_maps(of: Subject, maps: dict[str, Tensor], *, k: int, radii: list[int]) -> pd.DataFrame:
    """Rows of every score of the perturbed maps against those before, each with its chance level; NaN where the network
    is wrong about the image, which is not attacked."""
    right = of.answers()[1].cpu()
    parts = []
    for name, after in list(maps.items())[1:]:
        found = with_chance(maps["before"], after, k=k, radii=radii)
        kept = {metric: value.where(right, torch.nan).numpy() for metric, value in found.items()}
        table = pd.DataFrame(kept).assign(image=of.images)
        parts.append(table.melt("image", var_name="metric").assign(attack=name))
    return pd.concat(parts, ignore_index=True).assign(model=of.network.name)


def shifted(maps: Tensor, images: list[str], *, shifts: list[int], k: int, radii: list[int]) -> pd.DataFrame:
    """Rows of each map (B, H, W) against itself, moved to the right by some pixels, what leaves coming back in."""
    parts = []
    for shift in shifts:
        found = locality(maps, maps.roll(shift, 2), k=k, radii=radii)
        table = pd.DataFrame({metric: value.numpy() for metric, value in found.items()}).assign(image=images)
        parts.append(table.melt("image", var_name="metric").assign(shift=shift))
    return pd.concat(parts, ignore_index=True)


def unrelated(sizes: dict[int, int], *, count: int, radii: list[int], seed: int = 0) -> pd.DataFrame:
    """What maps of independent uniform noise score: size H -> k; measured, and 1 - (1 - k / HW)^((2w+1)^2) for LENS.

    Columns size, k, w, top_k, recall, formula, recall_div (NaN where infeasible), picked: diverse pixels found of k.
    """
    rows = []
    for size, k in sizes.items():
        generators = [image_generator(seed, f"{size}/{number}", "unrelated") for number in range(2 * count)]
        noise = torch.stack([torch.rand(size, size, generator=generator) for generator in generators])
        found = chance(noise[:count], noise[count:], k=k, radii=radii)
        for w in radii:
            level = {name: found[each].mean().item() for name, each in _columns(w).items()}
            picked = diverse_top_k(noise, k, w)[1].double().mean().item()
            formula = 1 - (1 - k / size**2) ** ((2 * w + 1) ** 2)
            rows.append({"size": size, "k": k, "w": w, **level, "formula": formula, "picked": picked})
    return pd.DataFrame(rows)


def _columns(w: int) -> dict[str, str]:
    return {"top_k": "top_k", "recall": f"lens_recall_{w}", "recall_div": f"lens_recall_div_{w}"}
