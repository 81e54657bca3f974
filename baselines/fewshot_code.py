"""A fixed code for strokes: where they lie about their centre, in which direction, blurred. Nothing is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 32  # of the normalised picture
REACH = 2.2  # of its window, in deviations of the ink
INK_BLUR = 1.5 / 105  # deviation, in sides of the picture
DIRECTIONS = 12
SHARPNESS = 6.0  # exponent of the cosine of a direction
POOL_BLUR = 2.5  # deviation, in normalised pixels
STRIDE = 2


def stroke_code(pictures: Tensor) -> Tensor:
    """Pictures (n, H, W) of ink in [0, 1] -> unit vectors (n, DIRECTIONS (SIZE / STRIDE)^2).

    1. Ink is moved to its centre and stretched to unit deviation along both axes: a window of +- REACH deviations,
       sampled SIZE x SIZE. So place and size of a drawing do not count.
    2. The slope of the ink, (g cos t, g sin t), is spread over DIRECTIONS cells, g max(0, cos(t - a))^SHARPNESS: simple
       cells of V1, as in a histogram of oriented gradients (Dalal & Triggs 2005).
    3. Each direction is blurred by POOL_BLUR, as complex cells tolerate small shifts, and read at every second place.
    4. The root of it (Hellinger's kernel), less the mean over the directions at each place, which drawings have in
       common and which says only that there is ink; to length 1.

    The constants were set on the background alphabets, which the one-shot runs do not contain.
    """
    side = _normalised(pictures)
    horizontal = F.conv2d(side, torch.tensor([[[[-0.5, 0.0, 0.5]]]]), padding=(0, 1))
    vertical = F.conv2d(side, torch.tensor([[[[-0.5], [0.0], [0.5]]]]), padding=(1, 0))
    slope, turn = (horizontal.square() + vertical.square()).sqrt(), torch.atan2(vertical, horizontal)
    preferred = torch.arange(DIRECTIONS).view(1, -1, 1, 1) * (2 * math.pi / DIRECTIONS)
    cells = slope * torch.cos(turn - preferred).clamp(min=0) ** SHARPNESS
    pooled = blurred(cells, POOL_BLUR)[:, :, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    response = pooled.clamp(min=0).sqrt()
    return F.normalize((response - response.mean(1, keepdim=True)).flatten(1), dim=1)


def blurred(x: Tensor, deviation: float) -> Tensor:
    """Channels (n, c, H, W) convolved with a Gaussian of that deviation in pixels, cut at three deviations."""
    reach = int(3 * deviation + 0.5)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(x, kernel.unsqueeze(3), padding=(reach, 0), groups=x.shape[1])
    return F.conv2d(x, kernel.unsqueeze(2), padding=(0, reach), groups=x.shape[1])


def _normalised(pictures: Tensor) -> Tensor:
    """(n, H, W) -> (n, 1, SIZE, SIZE): centred on the mean of the ink, each axis in its deviations. Without ink: 0."""
    height, width = pictures.shape[1:]
    y, x = torch.arange(height, dtype=pictures.dtype), torch.arange(width, dtype=pictures.dtype)
    mass = pictures.sum((1, 2)).clamp(min=1e-6)
    rows, columns = pictures.sum(2) / mass[:, None], pictures.sum(1) / mass[:, None]
    line = torch.linspace(-REACH, REACH, SIZE)
    places = []
    for share, axis in ((columns, x), (rows, y)):
        middle = (share * axis).sum(1, keepdim=True)
        deviation = (share * (axis - middle).square()).sum(1, keepdim=True).sqrt().clamp(min=0.5)
        places.append((middle + deviation * line) / (len(axis) - 1) * 2 - 1)
    grid = torch.stack([places[0][:, None, :].expand(-1, SIZE, -1), places[1][:, :, None].expand(-1, -1, SIZE)], dim=-1)
    return F.grid_sample(blurred(pictures[:, None], INK_BLUR * height), grid, align_corners=True)
