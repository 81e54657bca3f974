"""Colour photographs as sequences of grey levels, for Long Range Arena's Image and a short form of it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from neurons.specs import InputSpec
from tasks.task import Split

MEAN, DEVIATION = 122.6, 61.0  # of the grey levels of CIFAR-10's training pictures, as S4 rounds them


def grey(pictures: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 colours as (n, H, W) uint8 luma, round(.299 R + .587 G + .114 B), ITU-R BT.601.

    It is Pillow's and torchvision's conversion, bit for bit (S4 and after); the arena's own, TensorFlow's, has weights
    .2989, .5870 and .1140.
    """
    luma = np.empty(pictures.shape[:3], np.uint8)
    weights = np.array([19595, 38470, 7471], np.uint32)  # of 65,536
    for start in range(0, len(pictures), 5000):  # 32-bit copies of all would take a gigabyte
        part = pictures[start : start + 5000].astype(np.uint32)
        luma[start : start + 5000] = (part @ weights + 32768) >> 16
    return luma


def pooled(levels: np.ndarray) -> np.ndarray:
    """(n, H, W) uint8 as (n, H / 2, W / 2): means of 2 x 2 pixels, rounded."""
    count, height, width = levels.shape
    blocks = levels.reshape(count, height // 2, 2, width // 2, 2).astype(np.uint16)
    return ((blocks.sum((2, 4)) + 2) // 4).astype(np.uint8)


def sequences(levels: np.ndarray, labels: np.ndarray, reading: Literal["symbols", "continuous"]) -> Split:
    """(n, H, W) levels in reading order: n rows of H W symbols, or (n, H W, 1) features of about unit variance."""
    rows = levels.reshape(len(levels), -1)
    if reading == "symbols":
        return Split(list(rows), labels)
    return Split(((rows.astype(np.float32) - MEAN) / DEVIATION)[:, :, None], labels)


def input_of(length: int, reading: Literal["symbols", "continuous"]) -> InputSpec:
    """The levels 0..255 are the symbols, so what pads is 256; or one feature a step."""
    return InputSpec("tokens", length, 257, 256) if reading == "symbols" else InputSpec("features", length, 1)
