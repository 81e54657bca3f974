"""Text as a vector of fixed length without a vocabulary: words and pairs of words, hashed and counted.

    v_j = sum of sign(g) over the runs g of one to ``order`` words with bucket(g) = j,    x_j ~ sign(v_j) log(1 + |v_j|)

scaled to a mean square of 1 over the ``size`` places of a text. Bucket and sign are bits of the run's hash (Weinberger
et al. 2009): nothing is learned, so nothing is known of texts that are yet to come, and a word of any language has a
place. Two runs in one bucket cancel as often as they add up.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from tasks.text import WORDS

TAG = re.compile(r"<[^<>]*>")  # of line breaks, in reviews
CHUNK = 1000  # texts whose dense counts are held at a time, in float64


def hashed(texts: Sequence[str], *, size: int, order: int = 2) -> np.ndarray:
    """(n, size) float32; zeros for a text without a word."""
    words = re.compile(WORDS)
    known: dict[str, int] = {}
    rows = np.zeros((len(texts), size), np.float32)
    for start in range(0, len(texts), CHUNK):
        chunk = [
            [known.setdefault(word, _hash(word)) for word in _words(words, text)]
            for text in texts[start : start + CHUNK]
        ]
        owner = np.repeat(np.arange(len(chunk)), [len(row) for row in chunk])
        flat = np.array([word for row in chunk for word in row], dtype=np.uint64)
        counts = np.zeros(len(chunk) * size)
        runs = flat
        for length in range(1, order + 1):
            if length > 1:
                runs = runs[:-1] * np.uint64(0x9E3779B97F4A7C15) + flat[length - 1 :]
            whole = owner[: len(runs)] == owner[length - 1 :]
            mixed = _mixed(runs[whole])
            place = owner[: len(runs)][whole] * size + (mixed >> np.uint64(1)) % np.uint64(size)
            counts += np.bincount(place.astype(np.int64), 1.0 - 2.0 * (mixed & np.uint64(1)), minlength=len(counts))
        dense = counts.reshape(len(chunk), size)
        dense = np.sign(dense) * np.log1p(np.abs(dense))
        level = np.sqrt(np.square(dense).mean(1, keepdims=True))
        rows[start : start + CHUNK] = np.divide(dense, level, out=np.zeros_like(dense), where=level > 0)
    return rows


def _words(words: re.Pattern[str], text: str) -> list[str]:
    return [found.group() for found in words.finditer(TAG.sub(" ", text).lower())]


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _mixed(x: np.ndarray) -> np.ndarray:
    """Every bit of each uint64 hangs on all of its bits (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
