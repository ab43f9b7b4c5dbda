"""What the network recognises, and how much it is shown, as a blurred image turns into the original."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy
import torch
from PIL import Image, ImageFilter
from pytorch_msssim import ms_ssim
from torch import Tensor

from lib import InputError, nearest
from lib.attribution.arguments import whole_number
from lib.attribution.gate import gate, image_batch
from lib.metrics.insertion import probability_and_hit, reveal, reveal_counts
from lib.metrics.ranking import map_batch, pixel_order
from lib.metrics.stability import jpeg, require_picture

CODECS = {"png": {"format": "PNG"}, "webp": {"format": "WEBP", "lossless": True, "quality": 100}}
MEASURES = (*CODECS, "msssim")
CHANNELS = (1, 3)  # of grey and colour images, which the codecs write as they are


@dataclass(frozen=True)
class Revealed:
    """What was measured while each map revealed its image, from fully blurred to original.

    counts (P,): pixels revealed; probability, correct (B, M, P): the target's softmax probability, and 1
    where it is the predicted class; information[measure] (B, M, P): bytes of the file ("png", "webp") or
    MS-SSIM to the original in [0, 1].
    All but counts are float64; all are on the CPU.

    >>> p, size = torch.tensor([[[0.1, 0.9]]]), torch.tensor([[[100.0, 200.0]]])
    >>> Revealed(torch.tensor([0, 4]), p, p.round(), {"png": size}).correct
    tensor([[[0., 1.]]])
    """

    counts: Tensor
    probability: Tensor
    correct: Tensor
    information: dict[str, Tensor]


def blurred(image: Image.Image, *, radius: float = 20, jpeg_quality: int | None = 75) -> Image.Image:
    """The image without its details: Gaussian blur of `radius` pixels of the original resolution.

    Pillow's blur is three box blurs. The TMLR code stores the result as JPEG of quality 75 (blur.py:16); None
    leaves this out. PAIR instead interpolates from a random 1 % of the pixels.
    Raises InputError for a picture that is neither RGB nor grey, a radius below 0, and as `jpeg`.

    >>> blurred(Image.new("RGB", (8, 8), "red"), radius=2).size
    (8, 8)
    """
    require_picture(image)
    if not 0 <= radius < float("inf"):
        raise InputError(f"radius is {radius}; give a number of pixels from 0 up (20 in the paper)")
    soft = image.filter(ImageFilter.GaussianBlur(radius))
    return soft if jpeg_quality is None else jpeg(soft, quality=jpeg_quality)


@torch.no_grad()
def information_curves(
    model,
    x: Tensor,
    blurred: Tensor,
    ranking: Tensor,
    target: Tensor,
    *,
    points: int = 25,
    measures: tuple[str, ...] = ("png", "msssim"),
    batch: int | None = None,
) -> Revealed:
    """Reveal the original on the blurred image, highest score first; measure prediction and information.

    Image i shows x on the floor(i H W / (P-1)) highest pixels and `blurred` elsewhere, i = 0..P-1
    (Kapishnikov et al., ICCV 2019, as in Singhi & Kumari, TMLR 2024).

    x, blurred (B, C, H, W) in [0, 1]; ranking (B, M, H, W); target (B,). Measures: "png", "webp": bytes of
    the lossless file of the 8-bit image floor(255 x), grey (C = 1) or colour (C = 3); "msssim": MS-SSIM to the
    original, of any number of channels. Costs (P-2) M + 2 forward passes and encodings per image; files are encoded in
    as many threads as torch has.
    Raises InputError as `insertion` does, for fewer than 2 points, unknown measures, files of other numbers of
    channels, and "msssim" of sides up to 160 pixels.
    Differs from the released code: ties are broken by position, and both curves share one measurement.

    >>> network, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval(), torch.rand(2, 3, 4, 4)
    >>> found = information_curves(network, x, 0 * x, x[:, :1], [0, 2], points=3, measures="png")
    >>> found.counts, found.information["png"].shape
    (tensor([ 0,  8, 16]), torch.Size([2, 1, 3]))
    """
    measures = (measures,) if isinstance(measures, str) else tuple(measures)
    for measure in measures:
        if measure not in MEASURES:
            raise InputError(f"measure {measure!r} is unknown; {nearest(measure, MEASURES)}")
    points = whole_number(points, "points", 2)
    model, x, target = gate(model, x, target, objective="probability")
    blurred = image_batch(blurred, "blurred", like=x)
    if "msssim" in measures and min(x.shape[-2:]) <= 160:
        raise InputError(
            f"MS-SSIM needs sides above 160 pixels, these images have {tuple(x.shape[-2:])}; "
            "give measures=('png',) or larger images"
        )
    if x.shape[1] not in CHANNELS and any(measure in CODECS for measure in measures):
        raise InputError(
            f"these images have {x.shape[1]} channels, which no file of {', '.join(CODECS)} holds as they are; give "
            "images of 1 or 3 channels, or measures=('msssim',)"
        )
    order = pixel_order(map_batch(ranking, "ranking", of=x))
    counts = reveal_counts(x.shape[-2:].numel(), points - 1)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:

        def measured(images: Tensor, rows: Tensor) -> Tensor:
            amounts = [_amount(measure, images, x[rows], threads) for measure in measures]
            return torch.cat([probability_and_hit(model(images), target[rows]), *amounts], 1)

        table = reveal(measured, model, x, blurred, order, counts, batch=batch)
    probability, correct, *amounts = table.unbind(3)
    return Revealed(counts, probability, correct, dict(zip(measures, amounts, strict=True)))


def _amount(measure: str, images: Tensor, originals: Tensor, threads: ThreadPoolExecutor) -> Tensor:
    """Information in each image: (N, C, H, W) -> (N, 1), on the images' device."""
    if measure == "msssim":
        # Channels last: its depthwise convolutions are then some ten times faster on a CPU.
        pair = (each.contiguous(memory_format=torch.channels_last) for each in (images, originals))
        return ms_ssim(*pair, data_range=1, size_average=False)[:, None]
    pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels  # Pillow has grey images without channels
    sizes = threads.map(lambda image: _bytes(image, **CODECS[measure]), pixels)
    return torch.tensor(list(sizes), dtype=images.dtype, device=images.device)[:, None]


def _bytes(pixels: numpy.ndarray, **codec) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **codec)
    return buffer.tell()
