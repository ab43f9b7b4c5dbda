"""What figures call networks, data, trainings and penalties, and what is measured of networks trained with these."""

NETWORKS = {
    **{f"efficientnet_lite{n}": f"EfficientNet-Lite{n}" for n in range(5)},
    **{f"resnet{n}": f"ResNet-{n}" for n in (18, 34, 50, 101, 152)},
    **{f"vgg{n}": f"VGG-{n}" for n in (11, 13, 16, 19)},
    "squeezenet1_1": "SqueezeNet",
    "alexnet": "AlexNet",
    **{f"densenet{n}": f"DenseNet-{n}" for n in (121, 169, 201)},
    "convnext_base": "ConvNeXt-B",
    "efficientnet_b0": "EfficientNet-B0",
    "inception_v3": "Inception-v3",
    "mobilenet_v2": "MobileNet-V2",
    "swin_b": "Swin-B",
    "vit_b_16": "ViT-B/16",
    "xception": "Xception",
    "mnist": "digit CNNs",  # with and without biases
    "mnist_cnn": "digit CNN",
    "mnist_cnn_pgd": "digit CNN, PGD-trained",
    "rar_flower": "RAR network, flowers",
}
DATA = {
    "table": "table",
    "published": "published",
    "digits": "digits",
    "photographs": "photographs",
    "mnist_5k": "5,000 digits of MNIST",
}
TRAININGS = {"natural": "natural", "rar": "RAR", "ig_norm": "IG-NORM", "ig_sum_norm": "IG-SUM-NORM"}
TRAININGS |= {"fine-tuned": "fine-tuned"}
PENALTIES = {
    "plain": "plain training",
    **{penalty: penalty for penalty in ("joint", "conditional", "marginal")},
    "marginal_detached": "marginal, constant weights",
    "marginal_finite_difference": "marginal, finite difference",
    "marginal_random_direction": "marginal, random direction",
    "reweighted": "reweighted groups",
}
DENSITY = {  # what is measured of networks with these penalties
    "leakage_sum": "leakage (sum)",
    "leakage_share": "leakage (share)",
    "insertion_pixels": "insertion (pixels)",
    "right": "accuracy",
    "minority_right": "accuracy on the minority",
    "worst_group": "accuracy in the worst group",
    "noise_right": "accuracy under noise",
    "density_right": "accuracy under density PGD",
    "gradient_change": "change of the gradient",
    "density_change": "change of log density (nats)",
    "memory_mb": "memory (MB)",
    "value_error": "difference of the value",
    "derivative_error": "difference of the derivative",
    "one_draw_error": "difference, one draw",
    "sum_of_gradients": "sum of the gradients",
    "sum_of_penalties": "sum of the penalties",
    "recentred_penalty": "penalty after re-centring",
    "recentred_probabilities": "probabilities after re-centring",
    "valid_accuracy": "validation accuracy",
    "valid_worst_group": "validation, worst group",
    "diverged": "diverged",
    "log_probability": "log probability",
    "blockmnist": "BlockMNIST",
    "digits_on_photographs": "digits on photographs",
    "waterbirds": "Waterbirds",
    "celeba_hair": "CelebA, hair",
}
