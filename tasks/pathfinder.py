"""Pathfinder's pictures: two contours of dashes, distractors, and two markers.

Label 1: the markers sit on both ends of one contour; 0: on one end of each. Everything drawn is scaled to the brightest
pixel. Source: Linsley et al. 2018, Kim et al. 2020, github.com/drewlinsley/pathfinder.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.contours import Lanes, coordinates, drawn_along, targets_of
from tasks.distractors import distractors_of
from tasks.paddles import Paddles, Scene, paddles


class Pictures(NamedTuple):
    """``images`` (n, size, size) uint8, ``labels`` (n,) int64. ``paddles`` (n, 2, contour, 4): y, x of where a paddle
    was drawn from, its angle there (radians) and the margin; ``markers`` (n, 2, 2) y, x."""

    images: np.ndarray
    labels: np.ndarray
    paddles: np.ndarray
    markers: np.ndarray


def draw(scene: Scene, count: int, seed: tuple[int, ...]) -> Pictures:
    """``count`` pictures, a pure function of the arguments."""
    rng = np.random.default_rng(seed)
    margin = rng.choice(scene.margins, count)
    label = rng.integers(0, 2, count)
    start = rng.integers(0, 2, count)
    out = Pictures(
        np.empty((count, scene.size, scene.size), np.uint8),
        label,
        np.empty((count, 2, scene.contour, 4), np.float32),
        np.empty((count, 2, 2), np.int64),
    )
    for one in scene.margins:
        rows = np.flatnonzero(margin == one)
        if not len(rows):
            continue
        kit = paddles(scene, one)
        targets = targets_of(scene, kit, len(rows), rng)
        distractors = distractors_of(scene, kit, targets, rng)
        end = np.where(label[rows] == 1, start[rows], 1 - start[rows])
        lane = np.arange(len(rows))
        place = targets.place.reshape(len(rows), 2, scene.contour)
        stamp = targets.stamp.reshape(len(rows), 2, scene.contour)
        tips = np.stack([place[lane, start[rows], 0], place[lane, end, -1]], 1)
        out.images[rows] = rendered(scene, kit, targets, distractors, tips)
        out.markers[rows] = coordinates(kit, tips)
        angle = drawn_along(kit, stamp)
        out.paddles[rows] = np.concatenate(
            [coordinates(kit, place), angle[..., None], np.full((*angle.shape, 1), one)], -1
        )
    return out


def arrays(scene: Scene, count: int, seed: int, piece: int) -> dict[str, np.ndarray]:
    """Piece number ``piece``, of ``count`` pictures, of a set: images and labels."""
    drawn = draw(scene, count, (seed, piece))
    return {"images": drawn.images, "labels": drawn.labels}


def rendered(scene: Scene, kit: Paddles, targets: Lanes, distractors: Lanes, tips: np.ndarray) -> np.ndarray:
    """(n, size, size) uint8: the brightest of everything drawn, scaled to the brightest pixel of the picture."""
    count = len(tips)
    canvas = np.zeros((count, kit.width**2), np.float32)
    flat, base = canvas.reshape(-1), np.arange(count) * kit.width**2
    for lanes, contrast in ((targets, scene.target_contrast), (distractors, scene.distractor_contrast)):
        for place, stamp in zip(lanes.place.T, lanes.stamp.T, strict=True):
            rows = np.flatnonzero(stamp >= 0)
            where = (base[rows] + place[rows])[:, None] + kit.line.offset[stamp[rows]]
            flat[where] = np.maximum(flat[where], kit.line.value[stamp[rows]] * np.float32(contrast))
    for tip in tips.T:
        where = (base + tip)[:, None] + kit.marker.offset[0]
        flat[where] = np.maximum(flat[where], kit.marker.value[0])
    images = canvas.reshape(count, kit.width, kit.width)[:, kit.rim : -kit.rim, kit.rim : -kit.rim]
    return np.rint(images * (255 / images.max((1, 2), keepdims=True))).astype(np.uint8)
