"""The house style: one look, one colour per rule, one name per method, and files that are the same byte for byte."""

import io
from collections.abc import Iterable
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image as Picture
from matplotlib.figure import Figure

from lib import ROOT

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is darkened for print
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#B8A800", "#000000")
COLOURS = {
    "riemann": "#0072B2",
    "idgi": "#D55E00",
    "riemann_abs": "#56B4E9",
    "squared_gradient": "#009E73",
    "random": "#999999",
    "recalibrated_point": "#D55E00",
    "recalibrated_reference": "#CC79A7",
    "relu": "#009E73",
    "point_abs": "#B8A800",
    "random_mask": "#666666",
    "masked": "#E69F00",
    "weighted": "#000000",
    "weighted_abs": "#8B5A2B",
}
UNDECIDED = "#777777"
RULES = {
    "riemann": "base",
    "idgi": "base + IDGI",
    "riemann_abs": "|base|",
    "squared_gradient": "Σ gradient²",
    "random": "random",
    "recalibrated_point": "re-calibrated",
    "recalibrated_reference": "re-calibrated by reference",
    "relu": "relu(base)",
    "point_abs": "Σ|point|",
    "random_mask": "random mask",
    "masked": "mask alone",
    "weighted": "distance weight alone",
    "weighted_abs": "|distance weight alone|",
    "gradient": "gradient",
    "input_x_gradient": "input × gradient",
    "smoothgrad": "SmoothGrad",
    "smoothgrad_squared": "SmoothGrad, squared",
    "fullgrad": "FullGrad",
    "gradcam": "Grad-CAM",
    "x_gradient": "X-Gradient",
    "expected_gradients": "EG",
    "rrr": "RRR gradient",
    "unregularised": "no prior",
    "unregularised_no_bias": "no prior, no biases",
    "integrated_gradients": "IG",
    "gradient_shap": "GradientSHAP",
    "deeplift": "DeepLIFT",
    "lrp": "LRP-ε",
}
PATHS = {
    "straight": "IG",
    "guided": "Guided IG",
    "blur": "Blur IG",
    "uniform": "IG-U",
    "noise": "IG-SG",
    "noise_squared": "IG-SQ",
    "dataset": "EG",
    "local": "LPI",
    "adversarial": "AGI",
    "none": "",  # a map that needs no path is named by its rule
}
REMOVALS = {
    "diffid_logit": "DiffID (logit)",
    "diffid_accuracy": "DiffID (accuracy)",
    "deletion_logit": "pixel perturbation (logit)",
    "deletion_accuracy": "pixel perturbation (accuracy)",
    "insertion_logit": "insertion (logit)",
    "insertion_accuracy": "insertion (accuracy)",
}
MASKS = {
    "keep_positive": "KPM ↑ (logit)",
    "remove_positive": "RPM (logit)",
    "keep_negative": "KNM ↓ (logit)",
    "remove_negative": "RNM (logit)",
    "keep_absolute": "KAM ↑ (accuracy)",
    "remove_absolute": "RAM ↓ (accuracy)",
}
ATTACKS = {
    "random1": "random signs",
    "random_walk": "random walk",
    "top_k": "top-k attack",
    "mass_centre": "mass-centre attack",
    "lens_top_k": "LENS-aware attack",
}
TWINS = {"regular": "with biases", "x": "without biases", "stripped": "biases taken out after training"}
METRICS = {
    "insertion": "insertion",
    "insertion_ratio": "insertion ratio",
    "aic_png": "AIC, entropy",
    "sic_png": "SIC, entropy",
    "aic_webp": "AIC, entropy (WebP)",
    "sic_webp": "SIC, entropy (WebP)",
    "aic_msssim": "AIC, MS-SSIM",
    "sic_msssim": "SIC, MS-SSIM",
    "mse_signed": "MSE, signed sum",
    "mse_l1": "MSE, absolute sum",
    "spearman": "rank correlation",
    "topk": "top-k overlap",
    **REMOVALS,
    **MASKS,
    **{f"{metric}_pixels": f"{name}, pixels" for metric, name in REMOVALS.items()},  # not by element
    "sensitivity_zero": "Sensitivity-n, zero fill",
    "sensitivity_random": "Sensitivity-n, random fill",
    "sensitivity_mean": "Sensitivity-n, mean fill",
    "spearman_abs": "rank correlation of |map|",
    "ssim": "SSIM",
    "hog": "HOG correlation",
    "test_auc": "test ROC-AUC",
    "gini": "Gini, as trained on",
    "gini_ixg": "Gini, input × gradient",
    "real_share": "share on real columns",
    "top_k": "top-k intersection",
    "centre_shift": "shift of the centre (pixels)",
    **{f"lens_spearman_{w}": f"LENS rank correlation, w = {w}" for w in (1, 2, 3)},
    **{f"top_k_div_{w}": f"top-k-div, w = {w}" for w in (1, 2, 3)},
    **{
        f"lens_{side}{div}_{w}": f"LENS {side}{div.replace('_', '-')}, w = {w}"
        for side in ("recall", "precision")
        for div in ("", "_div")
        for w in (1, 2, 3)
    },
}
METRICS |= {f"{metric}_adjusted": f"{name}, adjusted" for metric, name in METRICS.items()}
NAMES = PATHS | RULES | METRICS | TWINS
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


@contextmanager
def house():
    """Figures made and saved inside this context have the house style."""
    with plt.rc_context(STYLE):
        yield


def named(value) -> str:
    """How figures call a path, rule or metric; anything else as it is."""
    return NAMES.get(value, str(value))


def palette(values: Iterable) -> dict:
    """A colour for each of `values`: a rule's own, else the palette's next one that none of their rules has."""
    values = dict.fromkeys(values)
    taken = {COLOURS[value] for value in values if value in COLOURS}
    free = cycle([colour for colour in PALETTE if colour not in taken] or PALETTE)
    return {value: COLOURS.get(value) or next(free) for value in values}


def save(fig: Figure, name: str, profile: str, output: str | Path) -> Picture:
    """Write <output>/figures/<profile>/<name>.png and .pdf, without dates or versions, and show it.

    name: <notebook>-<what>; output counts from the project's root. The figure is closed.
    """
    folder = ROOT / output / "figures" / profile
    folder.mkdir(parents=True, exist_ok=True)
    with house():
        fig.savefig(folder / f"{name}.png", metadata={"Software": None})
        fig.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return show(fig)


def show(fig: Figure) -> Picture:
    """The figure as a notebook shows it, at the screen's resolution and whatever its plotting backend; it is closed."""
    buffer = io.BytesIO()
    with house():
        fig.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(fig)
    return Picture(buffer.getvalue())
