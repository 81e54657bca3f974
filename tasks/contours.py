"""Pathfinder's contours by rejection: thousands of attempts side by side, one numpy lane each.

Two contours grow by turns, a paddle at a time. Each step starts at the contour's pivot, weighs the pixels one step away

    w = cos^2(min(continuity * bend, pi/2)) * (1 - dilated mask),

draws one of them in proportion, up to three times until the new paddle's mask does not collide, and only then adds the
mask of the paddle before. A lane where no step is left is dropped whole, so the survivors are the original's
distribution (which starts anew). As in the original, the last paddle of the first contour is never in the mask, so that
a distractor may cross it, and the two ends may cross while they grow; ``Scene.apart`` keeps both from happening.
Source: Linsley et al. 2018, Kim et al. 2020, github.com/drewlinsley/pathfinder.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from neurons.errors import UsageError
from tasks.paddles import DEGREES, Paddles, Scene, Stamps, moved, paddles

DRAWS = 3  # draws of one step, and of a seed
_WORKING_BYTES = 1 << 25
_FRUITLESS = 1000  # rounds without one pair: there is no room; at 128 pixels every other one may have none


class Lanes(NamedTuple):
    """Contours by lane: ``mask`` and its dilation (n, width * width) uint8; ``place``, ``stamp`` (n, paddles) drawn."""

    mask: np.ndarray
    wide: np.ndarray
    place: np.ndarray
    stamp: np.ndarray


class Tip(NamedTuple):
    """Where a contour stands: its last pivot, and its last paddle, which is not in the mask yet."""

    pivot: np.ndarray
    place: np.ndarray
    stamp: np.ndarray

    def take(self, rows: np.ndarray) -> Tip:
        return Tip(self.pivot[rows], self.place[rows], self.stamp[rows])


def _blank(scene: Scene, kit: Paddles, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """(mask, dilated mask) of nothing but the border."""
    inner = kit.rim + scene.padding
    mask = np.full((kit.width, kit.width), 255, np.uint8)
    mask[inner:-inner, inner:-inner] = 0
    wide = mask.copy()
    margin = _margin(scene, kit)
    wide[inner : inner + margin], wide[-inner - margin : -inner] = 255, 255
    wide[:, inner : inner + margin], wide[:, -inner - margin : -inner] = 255, 255
    return np.tile(mask.ravel(), (lanes, 1)), np.tile(wide.ravel(), (lanes, 1))


def _margin(scene: Scene, kit: Paddles) -> int:
    return (kit.rim - 3 - scene.length - int(np.ceil(scene.thickness))) // 2


def targets_of(scene: Scene, kit: Paddles, count: int, rng: np.random.Generator) -> Lanes:
    """``count`` lanes of two contours each, the first contour's paddles before the second's."""
    lanes = max(64, _WORKING_BYTES // (2 * kit.width**2))
    found: list[Lanes] = []
    fruitless = 0
    while sum(len(one.place) for one in found) < count:
        found.append(_pairs(scene, kit, lanes, rng))
        fruitless = 0 if len(found[-1].place) else fruitless + 1
        if fruitless == _FRUITLESS:
            raise UsageError(
                f"no two contours of {scene.contour} paddles found room in {scene.size} x {scene.size} pixels,"
                f" in {fruitless * lanes:,} attempts. Try: a smaller task.contour"
            )
    return Lanes(*(np.concatenate(column)[:count] for column in zip(*found, strict=True)))


@lru_cache
def _starts(scene: Scene, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, flat, where the first seed may start, degree after degree, and how many each degree has."""
    kit = paddles(scene, margin)
    inner = kit.rim + scene.clearance
    free = np.zeros((kit.width, kit.width), bool)
    free[inner:-inner, inner:-inner] = True
    places = inside(kit)
    starts = [
        all_free(free.ravel(), places, offsets) if usable else places[:0]
        for offsets, usable in zip(kit.kernel, kit.usable, strict=True)
    ]
    return np.concatenate(starts), np.array([len(one) for one in starts])


def inside(kit: Paddles) -> np.ndarray:
    """The picture's pixels, flat."""
    places = np.arange(kit.width**2).reshape(kit.width, kit.width)
    return places[kit.rim : -kit.rim, kit.rim : -kit.rim].ravel()


def all_free(free: np.ndarray, places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Those of ``places`` around which every one of ``offsets`` is free."""
    for offset in np.unique(offsets):
        places = places[free[places + offset]]
    return places


def _pairs(scene: Scene, kit: Paddles, lanes: int, rng: np.random.Generator) -> Lanes:
    mask, wide = _blank(scene, kit, lanes)
    starts, room = _starts(scene, _margin(scene, kit))
    degree = rng.integers(0, DEGREES, (2, lanes))
    lane = np.flatnonzero(room[degree[0]])
    first = starts[(np.cumsum(room) - room)[degree[0, lane]] + rng.integers(0, room[degree[0, lane]])]
    turn = rng.integers(0, 360, len(lane)) * np.pi / 180
    y, x = np.divmod(first, kit.width)
    second = np.rint(y + scene.seed_distance * np.sin(turn)) * kit.width + np.rint(
        x + scene.seed_distance * np.cos(turn)
    )
    tips = [
        Tip(moved(kit, moved(kit, place, kit.ahead[d]), kit.back[d]), place, d)
        for place, d in ((first, degree[0, lane]), (second.astype(np.int64), degree[1, lane]))
    ]
    place = np.zeros((lanes, 2, scene.contour), np.int64)
    stamp = np.zeros_like(place)
    for snake, tip in enumerate(tips):
        place[lane, snake, 0], stamp[lane, snake, 0] = tip.place, tip.stamp
    for step in range(1, scene.contour):
        for snake in (0, 1):
            rows, tips[snake] = extended(kit, mask, wide, lane, tips[snake], rng)
            lane, tips[1 - snake] = lane[rows], tips[1 - snake].take(rows)
            place[lane, snake, step], stamp[lane, snake, step] = tips[snake].place, tips[snake].stamp
    for tip in tips if scene.apart else tips[1:]:
        add(mask, kit.mask, lane, tip)
        add(wide, kit.wide, lane, tip)
    if scene.apart and len(lane):
        lane = lane[_apart(scene, kit, place[lane], stamp[lane])]
    drawn = (len(lane), 2 * scene.contour)
    return Lanes(mask[lane], wide[lane], place[lane].reshape(drawn), stamp[lane].reshape(drawn))


def _apart(scene: Scene, kit: Paddles, place: np.ndarray, stamp: np.ndarray) -> np.ndarray:
    """(n,) bool: the contours ``place``, ``stamp`` (n, 2, contour), gaps drawn through, keep ``scene.apart`` pixels."""
    start = coordinates(kit, place).astype(np.float64)
    angle = drawn_along(kit, stamp)
    end = start + scene.length * np.stack([np.sin(angle), np.cos(angle)], -1)
    # From the free end on: the first paddle is drawn onwards, the others back towards the one before.
    corners = np.stack([end, start], 3)
    corners[:, :, 0] = corners[:, :, 0, ::-1]
    corners = corners.reshape(*place.shape[:2], -1, 2)
    along = np.linspace(0, 1, 4)[:, None, None]
    first, second = (
        (corners[:, snake, :-1] * (1 - along[..., None]) + corners[:, snake, 1:] * along[..., None])
        .transpose(1, 0, 2, 3)
        .reshape(len(place), -1, 2)
        for snake in (0, 1)
    )
    return np.linalg.norm(first[:, :, None] - second[:, None], axis=-1).min((1, 2)) >= scene.apart


def coordinates(kit: Paddles, place: np.ndarray) -> np.ndarray:
    """(..., 2) rows and columns in the picture of flat ``place``."""
    return np.stack(np.divmod(place, kit.width), -1) - kit.rim


def drawn_along(kit: Paddles, stamp: np.ndarray) -> np.ndarray:
    """The angle from where a paddle was drawn to its other end, radians."""
    return np.where(stamp < DEGREES, kit.angle[stamp], kit.angle[stamp] + np.pi)


def extended(
    kit: Paddles, mask: np.ndarray, wide: np.ndarray, lane: np.ndarray, tip: Tip, rng: np.random.Generator
) -> tuple[np.ndarray, Tip]:
    """The rows of ``lane`` that found a step, and their tips after it."""
    pivot = moved(kit, tip.pivot, kit.advance[tip.stamp])
    there = pivot[:, None] + kit.ring
    free = 255 - at(wide, lane, there)
    sums = np.cumsum(kit.turn[tip.stamp] * free, axis=1)
    choice = np.full(len(lane), -1)
    rows = np.flatnonzero(sums[:, -1] >= 255e-4)
    for _ in range(DRAWS):
        drawn = rng.random((len(rows), 1), np.float32) * sums[rows, -1:]
        pick = np.minimum((sums[rows] <= drawn).sum(1), len(kit.ring) - 1)
        head = there[rows, pick]
        clear = (at(mask, lane[rows], head[:, None] + kit.hard[pick]) <= kit.limit[pick]).all(1)
        choice[rows[clear]] = pick[clear]
        rows = rows[~clear]
    rows = np.flatnonzero(choice >= 0)
    add(mask, kit.mask, lane[rows], tip.take(rows))
    add(wide, kit.wide, lane[rows], tip.take(rows))
    return rows, Tip(pivot[rows], there[rows, choice[rows]], DEGREES + choice[rows])


def at(canvas: np.ndarray, lane: np.ndarray, place: np.ndarray) -> np.ndarray:
    """canvas[lane, place] for place (n, p)."""
    return np.take(canvas, (lane * canvas.shape[1])[:, None] + place)


def add(canvas: np.ndarray, stamps: Stamps, lane: np.ndarray, tip: Tip) -> None:
    """The brighter of ``canvas`` and the stamps of ``tip``, in place."""
    flat = canvas.reshape(-1)
    where = (lane * canvas.shape[1] + tip.place)[:, None] + stamps.offset[tip.stamp]
    flat[where] = np.maximum(np.take(flat, where), stamps.value[tip.stamp])
