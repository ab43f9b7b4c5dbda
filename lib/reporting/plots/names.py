"""What figures call the keys of a table: one name per path, rule, metric, attack, network, data set and mode."""

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
    "density": "density",
    "random_density": "random densities",
    "equal_density": "equal densities",
    "one_cluster": "one cluster",
    "-": "",
}
PATHS = {
    "straight": "IG",
    "even": "even",
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
    "pgd": "PGD",
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
    "diffroar": "DiffROAR",
    "roar": "ROAR",
    "top_k": "top-k intersection",
    "centre_shift": "shift of the centre (pixels)",
    "recall": "LENS recall",
    "recall_div": "LENS recall-div",
    "lens_gain": "LENS recall − top-k",
    "least_lens_gain": "least gain of LENS",
    "least_score": "least score",
    "picked": "picked by the diverse selection",
    "left_out": "top k left out",
    "nonzero_share": "share that is not 0",
    "flipped": "prediction changed",
    "amplitude": "amplitude of the perturbation",
    "clean_right": "accuracy",
    "pgd_right": "accuracy under PGD",
    "accuracy": "accuracy",
    "accuracy_cost": "accuracy lost",
    "changed": "prediction changed",
    "completeness": "completeness error",
    "concentration": "concentration",
    "convergence": "distance to the limit",
    "relative_convergence": "relative distance to the limit",
    "crossing_off": "off the crossing",
    "deficit": "deficit of ROC-AUC",
    "diffid_gain": "gain in DiffID",
    "apart_from_input_x_gradient": "distance to input × gradient",
    "bias_cost": "share of the biases",
    "company_difference": "difference alone and in a batch",
    "double_backward": "error of the second gradient",
    "dummy": "dummy",
    "eg_difference": "difference from EG",
    "ig_difference": "difference from IG",
    "equivariance": "equivariance",
    "evaluations": "evaluations",
    "evaluations_saved": "evaluations saved",
    "extra_evaluations": "extra evaluations",
    "finite_difference_error": "error by finite differences",
    "formula": "difference from the formula",
    "homogeneity": "homogeneity",
    "implementation": "implementation",
    "linearity": "linearity",
    "symmetry": "symmetry",
    "lost": "lost",
    "random_gap_absolute": "gap to random, absolute",
    "random_gap_signed": "gap to random, signed",
    "relative_sum": "sum / change",
    "sum_over_change": "sum / change",
    "seconds": "seconds",
    "shortcut_difference": "difference from the shortcut",
    "spearman_squared_gradient": "rank correlation with Σ gradient²",
    "strength": "strength",
    "strength_regret": "regret of the strength",
    "comparison": "",  # of two methods
    "zero_reference_error": "error at a reference of zeros",
    "valid_auc": "validation ROC-AUC",
    "epoch": "epoch",
    "lens_spearman": "LENS rank correlation",
    "top_k_div": "top-k-div",
    "lens_recall": "LENS recall",
    "lens_recall_div": "LENS recall-div",
    "lens_precision": "LENS precision",
    "lens_precision_div": "LENS precision-div",
    **{f"gap_{metric}": f"{name}, gap between twins" for metric, name in MASKS.items()},
}
SUFFIXES = {  # of a metric's key, and what they add to its name
    "_pixels": ", pixels",  # not by element
    **{f"_{w}": f", w = {w}" for w in (1, 2, 3)},
    "_adjusted": ", adjusted",
    "_chance": ", chance level",
    "_advantage": ", gain of training",
    "_moved": ", moved",
    "_perturbed": ", after the perturbation",
    "_double": ", in float64",
    "_per_doubling": ", per doubling of references",
}
NETWORKS = {
    **{f"efficientnet_lite{n}": f"EfficientNet-Lite{n}" for n in range(5)},
    **{f"resnet{n}": f"ResNet-{n}" for n in (18, 34, 50, 101, 152)},
    **{f"vgg{n}": f"VGG-{n}" for n in (11, 13, 16, 19)},
    "alexnet": "AlexNet",
    "mnist": "digits",
    "mnist_cnn": "digit CNN",
    "mnist_cnn_pgd": "digit CNN, PGD-trained",
    "rar_flower": "RAR network, flowers",
}
DATA = {"digits": "digits", "photographs": "photographs", "mnist_5k": "5,000 digits of MNIST"}
TRAININGS = {
    "natural": "natural",
    "rar": "RAR",
    "ig_norm": "IG-NORM",
    "ig_sum_norm": "IG-SUM-NORM",
}
MODES = {"corrected": "corrected", "released": "as released", "paper_era": "paper-era code"}
NAMES = ATTACKS | PATHS | RULES | METRICS | TWINS | NETWORKS | DATA | TRAININGS | MODES  # "top_k" is a metric first


def named(value) -> str:
    """How figures call a path, rule, metric, attack, network, data set, training or mode; anything else as it is.

    >>> named("lens_recall_1_adjusted"), named("paper_era"), named("a name of yours")
    ('LENS recall, w = 1, adjusted', 'paper-era code', 'a name of yours')
    """
    key = str(value)
    for suffix, words in SUFFIXES.items():
        stem = key.removesuffix(suffix)
        if key not in NAMES and stem != key and (stem in NAMES or named(stem) != stem):
            return named(stem) + words
    return NAMES.get(key, key)
