"""Hashed bags of words against a slow reading of their definition, and what they promise."""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np
import pytest

from tasks.hashing import CHUNK, hashed

TEXTS = [
    "The film is not good, not good at all!",
    "a",
    "",
    "...",
    "I didn't like it<br /><br />THE END",
    "Ünïcode wörds",
]


def slow(text: str, size: int, order: int) -> np.ndarray:
    """With Python's whole numbers, one run of words at a time."""
    wrap = 2**64
    pattern = r"\w+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m|t)\b|\w+|([^\w\s_])\1*"
    words = [found.group() for found in re.finditer(pattern, re.sub(r"<[^<>]*>", " ", text).lower())]
    codes = [int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") for word in words]
    counts = [0] * size
    for length in range(1, order + 1):
        for start in range(len(codes) - length + 1):
            code = codes[start]
            for other in codes[start + 1 : start + length]:
                code = (code * 0x9E3779B97F4A7C15 + other) % wrap
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                code = ((code ^ (code >> shift)) * factor) % wrap
            code ^= code >> 31
            counts[(code >> 1) % size] += -1 if code & 1 else 1
    logged = [math.copysign(math.log1p(abs(count)), count) for count in counts]
    level = math.sqrt(sum(value * value for value in logged) / size)
    return np.array([value / level if level else 0.0 for value in logged])


@pytest.mark.parametrize(("size", "order"), [(7, 1), (64, 2), (64, 3)])
def test_it_is_the_slow_reading(size: int, order: int) -> None:
    found = hashed(TEXTS, size=size, order=order)
    assert (found.shape, found.dtype) == ((len(TEXTS), size), np.float32)
    for row, text in zip(found, TEXTS, strict=True):
        np.testing.assert_allclose(row, slow(text, size, order), rtol=1e-5)


def test_a_text_does_not_hang_on_its_company() -> None:
    many = [f"text number {number}" for number in range(CHUNK + 3)]
    np.testing.assert_array_equal(hashed(many, size=32)[CHUNK - 1 :], hashed(many[CHUNK - 1 :], size=32))
    np.testing.assert_array_equal(hashed(TEXTS[::-1], size=32)[::-1], hashed(TEXTS, size=32))


def test_levels_case_tags_and_the_order_of_words() -> None:
    found = hashed(TEXTS, size=256)
    levels = np.square(found).mean(1)
    np.testing.assert_allclose(levels[[0, 1, 3, 4, 5]], 1.0, rtol=1e-5)
    assert not found[2].any()
    np.testing.assert_array_equal(*hashed(["good<br/>film", "Good film"], size=256))
    one, other = hashed(["not good but bad", "not bad but good"], size=256)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(*hashed(["not good but bad", "not bad but good"], size=256, order=1))


def test_places_and_signs_are_even() -> None:
    words = [f"w{number}" for number in range(20000)]
    found = hashed(words, size=16, order=1)
    counts = np.abs(np.sign(found)).sum(0)
    assert abs(counts - 1250).max() < 5 * math.sqrt(1250)
    assert abs(np.sign(found).sum()) < 5 * math.sqrt(20000)
