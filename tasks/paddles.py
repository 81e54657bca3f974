"""The short bars ("paddles") of Pathfinder's contours, each orientation drawn once and kept as a stamp.

A paddle starts at a pixel, points along an angle (degrees counted from +x towards +y, as pictures are) and comes as two
stamps of 0..255: the line, and its mask, the line widened by ``margin``, which keeps other paddles away. Both are drawn
``antialias`` times too large and reduced by Lanczos' filter, as in the original (github.com/drewlinsley/pathfinder).

Positions are flat indices into a square canvas of ``width`` pixels a side: the picture inside a rim that is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter

DEGREES = 360  # a seed points along a whole number of degrees
TAKEN, FREE = 458, 76  # two masks collide above 1.8 * 255 together; a pixel is free up to 0.3 * 255


@dataclass(frozen=True)
class Scene:
    """What a Pathfinder set is drawn with: lengths in pixels, ``contour`` and ``distractor`` in paddles.

    Contrasts multiply a line's levels before the picture is scaled to its brightest pixel; a marker's is 1.
    """

    size: int
    length: int
    thickness: float
    margins: tuple[int, ...]
    marker_radius: float
    seed_distance: int
    clearance: int  # the first seed keeps this far from the border
    continuity: float
    target_contrast: float
    distractor_contrast: float
    contour: int = 14
    distractor: int = 4
    distractors: int = 5
    padding: int = 1
    antialias: int = 2
    apart: float = 0.0  # least distance of the two contours, pixels; 0: as in the original, their ends may be crossed


class Stamps(NamedTuple):
    """Sparse stamps, one a row: ``offset`` (n, p) from the start, flat; ``value`` (n, p) uint8. Short rows repeat
    their first pixel."""

    offset: np.ndarray
    value: np.ndarray


class Paddles(NamedTuple):
    """Everything that depends on a scene and one of its margins alone. Orientations: ``DEGREES`` seeds, then the K ways
    to step on from a pivot, which are drawn backwards from the pixel stepped to."""

    width: int
    rim: int
    line: Stamps
    mask: Stamps
    wide: Stamps  # the mask dilated once more
    hard: np.ndarray  # (K, h) offsets of a step's mask where it can collide
    limit: np.ndarray  # (K, h) uint8: what stands there collides above this
    kernel: np.ndarray  # (DEGREES, h) offsets that must be free around a seed
    usable: np.ndarray  # (DEGREES,) bool: seeds may point this way
    ring: np.ndarray  # (K,) offsets from a pivot to the pixels one step away
    turn: np.ndarray  # (DEGREES + K, K) float32 weights of a step after an orientation
    advance: np.ndarray  # (DEGREES + K, 2) from a pivot to the next
    ahead: np.ndarray  # (DEGREES, 2) from a seed's start to its end
    back: np.ndarray  # (DEGREES, 2) from there to its pivot
    angle: np.ndarray  # (DEGREES + K,) radians
    marker: Stamps  # one row


def offset(angle: np.ndarray, distance: float) -> np.ndarray:
    """(..., 2) rows and columns, not rounded, to a point ``distance`` away."""
    return distance * np.stack([np.sin(angle), np.cos(angle)], -1)


def moved(kit: Paddles, place: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Flat ``place`` (n,) moved ``by`` (n, 2) pixels and rounded up.

    As the original does it, in absolute coordinates: along a border 3 + 2.4e-16, which is 4 sin(pi/2) less 1 in the
    other direction, rounds up to 4 where 5 + 2.4e-16 is 5. A contour that runs along the border turns by that.
    """
    corner = np.stack(np.divmod(place, kit.width), -1) - kit.rim
    return (np.ceil(corner + by).astype(np.int64) + kit.rim) @ [kit.width, 1]


def flipped(angle: np.ndarray) -> np.ndarray:
    return np.where(angle < 0, angle + np.pi, angle - np.pi)


@lru_cache
def paddles(scene: Scene, margin: int) -> Paddles:
    length, wide = scene.length, scene.length + margin
    rim = scene.length + 2 * margin + int(np.ceil(scene.thickness)) + 3
    width = scene.size + 2 * rim
    seeds = np.arange(-180, 180) * np.pi / 180
    # Pixels on a circle around the pivot, one per pixel of its arc.
    around = np.arange(0, 360, 360 / (2 * wide * np.pi)) * np.pi / 180
    steps = np.unique(np.floor(wide * np.stack([np.sin(around), np.cos(around)], -1)).astype(np.int64), axis=0)
    angle = np.concatenate([seeds, np.arctan2(steps[:, 0], steps[:, 1])])
    bend = np.abs(angle[:, None] - angle[None, DEGREES:])
    bend = np.minimum(np.minimum(bend, 2 * np.pi - bend) * scene.continuity, np.pi / 2)

    drawn = [_drawn(scene, margin, one) for one in [*seeds, *flipped(angle[DEGREES:])]]
    masks = np.stack([mask for _, mask in drawn])
    disc = _disc(margin)
    widened = np.stack([maximum_filter(np.pad(mask, margin), footprint=disc, mode="constant") for mask in masks])
    hard = _sparse(np.where(masks[DEGREES:] > TAKEN - 255, masks[DEGREES:], 0), width)
    limit = np.where(hard.value > 0, TAKEN - hard.value.astype(np.int64), 255).astype(np.uint8)
    # The original centres the struct of a seed one pixel off its start, and cuts it to the paddle's reach.
    centre = masks.shape[1] // 2
    struct = np.zeros((DEGREES, 2 * wide + 1, 2 * wide + 1), np.uint8)
    low = centre - wide - 1
    struct[:] = masks[:DEGREES, low : low + 2 * wide + 1, low : low + 2 * wide + 1] == 255
    kernel = _sparse(struct, width)
    first = kernel.offset[:, :1]
    offsets = np.where(kernel.value > 0, kernel.offset, first)
    usable = np.array([_covers_every_corner(np.argwhere(one) - wide) for one in struct])
    return Paddles(
        width=width,
        rim=rim,
        line=_sparse(np.stack([line for line, _ in drawn]), width),
        mask=_sparse(masks, width),
        wide=_sparse(widened, width),
        hard=hard.offset,
        limit=limit,
        kernel=offsets,
        usable=usable,
        ring=steps @ [width, 1],
        turn=(np.maximum(np.cos(bend), 0) ** 2).astype(np.float32),
        advance=offset(angle, length + 2 * margin),
        ahead=offset(seeds, length),
        back=offset(flipped(seeds), wide),
        angle=angle,
        marker=_sparse(_marker(scene)[None], width),
    )


def _covers_every_corner(offsets: np.ndarray) -> bool:
    """Whether ``offsets`` (h, 2) around each corner pixel of a picture touch the picture.

    Where they do not, the original's dilation has no value at that corner and it takes the whole picture as taken; so
    at 32 pixels no seed points that way.
    """
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    return bool(((offsets[None] * signs[:, None]).max(-1) <= 0).any(1).all())


def _drawn(scene: Scene, margin: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """(line, mask), both (s, s) uint8 around the start."""
    from PIL import Image, ImageDraw

    fine = scene.antialias
    half = scene.length + int(np.ceil(scene.thickness)) + margin
    centre = half * fine
    down, right = np.ceil(centre + offset(np.array(angle), scene.length * fine))
    picture = Image.new("L", (2 * centre + 1, 2 * centre + 1))
    ImageDraw.Draw(picture).line(
        [(centre, centre), (int(right), int(down))], fill=255, width=round(scene.thickness * fine)
    )
    dilated = maximum_filter(np.asarray(picture), footprint=_disc(margin * fine), mode="constant")
    return _reduced(np.asarray(picture), 2 * half + 1), _reduced(dilated, 2 * half + 1)


def _marker(scene: Scene) -> np.ndarray:
    """A disc around the centre pixel's corner, as the original places it."""
    half, fine = int(np.ceil(scene.marker_radius)) + 3, scene.antialias
    y, x = np.ogrid[-half * fine : (half + 1) * fine, -half * fine : (half + 1) * fine]
    return _reduced(np.where(x**2 + y**2 <= (scene.marker_radius * fine) ** 2, 255, 0).astype(np.uint8), 2 * half + 1)


def _reduced(levels: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(levels).resize((size, size), Image.Resampling.LANCZOS))


def _disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


def _sparse(stamps: np.ndarray, width: int) -> Stamps:
    """The non-zero pixels of (n, s, s) stamps around their centres."""
    half = stamps.shape[1] // 2
    most = int((stamps > 0).sum((1, 2)).max())
    offset, value = np.zeros((len(stamps), most), np.int64), np.zeros((len(stamps), most), np.uint8)
    for row, stamp in enumerate(stamps):
        y, x = np.nonzero(stamp)
        offset[row, : len(y)] = (y - half) * width + x - half
        value[row, : len(y)] = stamp[y, x]
        if len(y):  # an index written twice keeps what was written last
            offset[row, len(y) :], value[row, len(y) :] = offset[row, 0], value[row, 0]
    return Stamps(offset, value)
