"""Defects of released code that no number of ours can show, and why."""

from typing import NamedTuple

from lib.experiments.discrepancies_record import FRAGILITY, IDGI_ORIGINAL, LENS, LPI, RAR, RECALIBRATION, TMLR, XDNN


class Unshown(NamedTuple):
    """A defect that no number of ours can show: the repository, the place, what it does, and why it is not shown."""

    repository: str
    place: str
    does: str
    why: str


NO_START = "it stops before anything is computed; reading shows it"
NO_PART = "it changes what a run takes or keeps, and no map or score"
HISTORY = "it is mended at the commit that was read"
CONVENTION = "a convention that we keep or name, not an error"
UNSHOWN = (
    Unshown(TMLR, "class_filterer.py:25", "reads wnids.txt, which is neither shipped nor mentioned", NO_START),
    Unshown(TMLR, "utils.py:32", "cannot load Xception, one of the networks of the study it repeats", NO_START),
    Unshown(TMLR, "blur.py:26, lossy.py:23", "joins the data folder to itself, unless its path is absolute", NO_START),
    Unshown(TMLR, "script_pic.py:72", "reshapes as if every step count kept the same images, or stops", NO_START),
    Unshown(TMLR, "script_pic.py:171", "writes after each fiftieth class, not if that one is empty", NO_PART),
    Unshown(TMLR, "script_lossy.py:38", "divides by all images also where it resumes in the middle", NO_PART),
    Unshown(TMLR, "metrics.py:220", "takes the running maximum before points are sorted, as PAIR's does", CONVENTION),
    Unshown(TMLR, "blurig.py:22", "mirrors the image at its edges, where PAIR's Blur IG takes black", CONVENTION),
    Unshown(TMLR, "gig.py", "has no guard for an image that equals its reference; its maps are still 0", CONVENTION),
    Unshown(IDGI_ORIGINAL, "idgi.py", "is one function: no path and no metric of the paper was released", NO_START),
    Unshown(
        RECALIBRATION, "README", "names `ImageNet`, which is no choice, and two methods that are not offered", NO_START
    ),
    Unshown(RECALIBRATION, "main.py:197", "builds neither an Inception nor a CIFAR network that it asks for", NO_START),
    Unshown(RECALIBRATION, "evaluator.py:64", "reads `dataset.samples`, which CIFAR and MNIST lack", NO_START),
    Unshown(RECALIBRATION, "evaluator.py:198", "gives an array to torch.abs, so that no sanity check ends", NO_START),
    Unshown(
        RECALIBRATION, "main.py:275", "loads one checkpoint into networks of two different names, strictly", NO_START
    ),
    Unshown(RECALIBRATION, "evaluator.py:273", "makes an array of lists of unequal length", NO_START),
    Unshown(
        RECALIBRATION, "evaluator.py:113", "records gradients in all evaluations, and waits for each image", NO_PART
    ),
    Unshown(RECALIBRATION, "expected_grad.py:23", "decodes 640 photographs a batch in one process", NO_PART),
    Unshown(RECALIBRATION, "main.py:161", "mirrors half of CIFAR-10's references, and none of CIFAR-100's", CONVENTION),
    Unshown(RECALIBRATION, "evaluator.py:85", "scores photographs that the network gets wrong, too", CONVENTION),
    Unshown(RECALIBRATION, "", "holds nothing of DiffROAR, ROAR, or training with priors", NO_START),
    Unshown(RECALIBRATION, "integrated_grad.py", "mixed batch and points between 0e2128f and its last state", HISTORY),
    Unshown(LPI, "distribution_estimation.py:89", "asks for `imagenet`, where README says `ImageNet`", NO_START),
    Unshown(LPI, "distribution_estimation.py:100", "imports a module that is not there", NO_START),
    Unshown(LPI, "random_baseline.py:13", "lacks the argument that the metric passes to it", NO_START),
    Unshown(LPI, "main.py:41", "puts a list into the environment, where -gpuid is given", NO_START),
    Unshown(LENS, "imagenet_topk_div_eps.py:77", "is not Python: `num_samples = # enter number of samples`", NO_START),
    Unshown(
        LENS, "Flower/eval_with_lens…:144", "adds to sums that were never set, and prints an unknown name", NO_START
    ),
    Unshown(LENS, "imagenet_topk_div_eps.py:102", "has maps of 227 x 227, where ResNet-50 sees 224 x 224", CONVENTION),
    Unshown(LENS, "ig_attack_with_lens.py:278", "stores the last iterate beside the map of the best one", NO_PART),
    Unshown(LENS, "MNIST/config.json", "attacks the 200 highest pixels and counts the 100 highest", CONVENTION),
    Unshown(
        LENS,
        "imagenet_topk_div_eps.py:105",
        "sorts by an unstable sort: which of equal scores is chosen depends on the machine",
        CONVENTION,
    ),
    Unshown(RAR, "Flower/eval_…", "seeds NumPy, not TensorFlow, and prints results without keeping them", NO_PART),
    Unshown(
        FRAGILITY,
        "IntegratedGradients_Notebook",
        "explains the softmax, and prints a pixel change as confidence",
        CONVENTION,
    ),
    Unshown(FRAGILITY, "utils.py:197", "returns four values where an attack fails, and five where it works", NO_PART),
    Unshown(XDNN, "attribution_metrics.py:83", "has a folder of its own for the data, whatever is given", NO_START),
    Unshown(XDNN, "attribution_metrics.py:37, 56", "knows networks and files by other names than README's", NO_START),
    Unshown(XDNN, "val.py:80", "joins folder and file without a separator", NO_START),
    Unshown(XDNN, "train_resnet.py:279", "gives a loss of three arguments two, in --evaluate", NO_START),
    Unshown(XDNN, "train_resnet.py:282", "builds a cosine schedule that nothing steps", NO_PART),
    Unshown(
        XDNN,
        "train_*.py",
        "selects the epoch on the images that are then reported; repeating it takes ImageNet",
        "it takes training on ImageNet",
    ),
    Unshown(XDNN, "run_sparsity_experiments.py:219", "chooses the attribution by a function's printed name", NO_PART),
    Unshown(
        XDNN,
        "plot_results.ipynb",
        "draws a typed constant for a computed level; see `xdnn_sparsity`",
        "the runs behind it are not ours",
    ),
    Unshown("pytorch-msssim 1.0.0", "ssim.py:213", "wants sides above 160 pixels", CONVENTION),
)
