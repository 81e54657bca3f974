"""Pathfinder's distractors: short contours that are not asked about, five attempts each; one that does not fit is left
out, as in the original (github.com/drewlinsley/pathfinder)."""

from __future__ import annotations

import numpy as np

from tasks.contours import DRAWS, Lanes, Tip, add, all_free, at, coordinates, extended, inside
from tasks.paddles import DEGREES, FREE, Paddles, Scene, moved

_ATTEMPTS = 5  # at one distractor
_GUESSES = 24  # pixels tried before all of them are looked at
_LEAST_FREE = 0.01  # share of the picture


def distractors_of(scene: Scene, kit: Paddles, targets: Lanes, rng: np.random.Generator) -> Lanes:
    """Places and stamps (n, distractors * length); stamp -1 where a distractor did not fit."""
    mask, wide = targets.mask, targets.wide
    count = len(mask)
    place = np.zeros((count, scene.distractors, scene.distractor), np.int64)
    stamp = np.full_like(place, -1)
    for snake in range(scene.distractors):
        waiting = np.arange(count)
        for _ in range(_ATTEMPTS):
            lane, tip = _seeds(scene, kit, mask, waiting, rng)
            before = mask[lane], wide[lane]
            start = lane
            drawn = [(lane, tip)]
            for _ in range(1, scene.distractor):
                rows, tip = extended(kit, mask, wide, lane, tip, rng)
                lane = lane[rows]
                drawn.append((lane, tip))
            lost = ~np.isin(start, lane)
            mask[start[lost]], wide[start[lost]] = before[0][lost], before[1][lost]
            add(mask, kit.mask, lane, tip)
            add(wide, kit.wide, lane, tip)
            for step, (rows, tip) in enumerate(drawn):
                kept = np.isin(rows, lane)
                place[rows[kept], snake, step], stamp[rows[kept], snake, step] = tip.place[kept], tip.stamp[kept]
            waiting = np.setdiff1d(waiting, lane)
            if not len(waiting):
                break
    return Lanes(mask, wide, *(one.reshape(count, scene.distractors * scene.distractor) for one in (place, stamp)))


def _seeds(
    scene: Scene, kit: Paddles, mask: np.ndarray, lane: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, Tip]:
    """The lanes where a distractor could start, and its first paddle."""
    canvas = mask.reshape(-1, kit.width, kit.width)
    inside = slice(kit.rim, -kit.rim)
    room = (canvas[lane, inside, inside] <= FREE).sum((1, 2)) >= _LEAST_FREE * scene.size**2
    lane = lane[room]
    lanes, places, degrees = [], [], []
    for _ in range(DRAWS):
        degree = rng.integers(0, DEGREES, len(lane))
        lane, degree = lane[kit.usable[degree]], degree[kit.usable[degree]]
        place = _free_places(scene, kit, mask, lane, degree, rng)
        end = moved(kit, place, kit.ahead[degree])
        corner = coordinates(kit, np.stack([end, moved(kit, end, kit.back[degree])]))
        inside_picture = ((corner >= 0) & (corner < scene.size)).all((0, 2))
        good = (place >= 0) & inside_picture
        lanes.append(lane[good])
        places.append(place[good])
        degrees.append(degree[good])
        lane = lane[(place >= 0) & ~inside_picture]  # without any place at all the attempt is over
    order = np.argsort(np.concatenate(lanes), kind="stable")
    place, degree = np.concatenate(places)[order], np.concatenate(degrees)[order]
    pivot = moved(kit, moved(kit, place, kit.ahead[degree]), kit.back[degree])
    return np.concatenate(lanes)[order], Tip(pivot, place, degree)


def _free_places(
    scene: Scene, kit: Paddles, mask: np.ndarray, lane: np.ndarray, degree: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A pixel of each lane, uniform over those where all of the kernel is free; -1 where there is none.

    A handful of uniform guesses finds it nearly always; the lanes they miss are searched whole.
    """
    y, x = rng.integers(kit.rim, kit.rim + scene.size, (2, len(lane), _GUESSES))
    guess = y * kit.width + x
    row, column = np.nonzero(at(mask, lane, guess + kit.kernel[degree, :1]) <= FREE)
    free = (at(mask, lane[row], guess[row, column, None] + kit.kernel[degree[row]]) <= FREE).all(1)
    row, column = row[free], column[free]
    found = np.full(len(lane), -1)
    hit, first = np.unique(row, return_index=True)
    found[hit] = guess[hit, column[first]]
    places = inside(kit)
    for missed in np.flatnonzero(found < 0):
        open_places = all_free(mask[lane[missed]] <= FREE, places, kit.kernel[degree[missed]])
        if len(open_places):
            found[missed] = open_places[rng.integers(len(open_places))]
    return found
