"""Feature leakage: attribution where nothing can tell about the class; and how fast the logit returns without it."""

import torch
from torch import Tensor

from lib import InputError
from lib.attribution.arguments import as_tensor, whole_number
from lib.attribution.gate import gate
from lib.metrics.insertion import reveal
from lib.metrics.ranking import map_batch, pixel_order


def leakage(maps: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of |map| over an image's uninformative pixels, and its share of the sum over all pixels: (B, M) each.

    maps (B, M, H, W): M signed maps of each image; null (B, H, W), truth values: the uninformative pixels. The sum has
    the unit of the map and shrinks with it; the share lies in [0, 1] and is NaN for a map of zeros.
    Yang et al. (ECCV 2024) report leakage on BlockMNIST by a measure whose formula could not be found.
    Raises InputError as `map_batch`, and for a null of another shape or type.

    >>> sum_, share = leakage(torch.tensor([[[[1.0, -3.0]]]]), torch.tensor([[[False, True]]]))
    >>> sum_.item(), share.item()
    (3.0, 0.75)
    """
    maps, null = map_batch(maps, "maps", "B, M, H, W"), as_tensor(null, "null", "truth values (B, H, W)")
    if null.dtype != torch.bool or null.shape != (len(maps), *maps.shape[2:]):
        raise InputError(
            f"null is {tuple(null.shape)} {null.dtype}; give truth values {(len(maps), *maps.shape[2:])}, one a pixel"
        )
    size = maps.abs().double()
    leaked = (size * null.to(size.device)[:, None]).sum((2, 3))
    total = size.sum((2, 3))
    return leaked, torch.where(total > 0, leaked / total, torch.nan)


@torch.no_grad()
def insertion_pixels(
    model, x: Tensor, ranking: Tensor, target: Tensor, *, share: float = 0.1, steps: int = 13, batch: int | None = None
) -> Tensor:
    """The area under the share of the logit that has returned, over the number of pixels inserted into black: (B, M).

    r(n) = (f_y(x on its n highest pixels) - f_y(black)) / (f_y(x) - f_y(black)), by the trapezoid rule over
    n = 0 .. floor(share H W) in `steps` steps, in pixels: for 56 x 28 images at most about 156. NaN unless f_y(x) is
    the highest logit and above f_y(black).
    x (B, C, H, W); ranking (B, M, H, W); target (B,). The insertion game of Yang et al. (ECCV 2024) as its figure draws
    it: fractional change of the logit against pixels, up to a tenth of them. What the figure inserts into is not said.
    Raises InputError as `lib.metrics.insertion.insertion`, and for a share outside (0, 1].

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    >>> insertion_pixels(network, torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4), [0, 2], share=1, steps=4).shape
    torch.Size([2, 5])
    """
    steps = whole_number(steps, "steps")
    if not 0 < share <= 1:
        raise InputError(f"share is {share!r}; give the share of the pixels that are inserted, above 0 and at most 1")
    model, x, target = gate(model, x, target, objective="probability")
    pixels = x.shape[-2:].numel()
    counts = torch.cat([torch.arange(steps + 1) * int(share * pixels + 1e-9) // steps, torch.tensor([pixels])])

    def measure(images: Tensor, rows: Tensor) -> Tensor:
        logits = model(images)
        own = logits.gather(1, target[rows, None])
        return torch.cat([own, (own >= logits.amax(1, keepdim=True)).to(own)], 1)

    order = pixel_order(map_batch(ranking, "ranking", of=x))
    shown, right = reveal(measure, model, x, torch.zeros_like(x), order, counts, batch=batch).unbind(-1)
    black, whole = shown[..., :1], shown[..., -1:]
    returned = (shown[..., :-1] - black) / (whole - black)
    area = torch.trapezoid(returned, counts[:-1].double())
    return area.where((right[..., -1] > 0) & (whole > black)[..., 0], torch.nan)
