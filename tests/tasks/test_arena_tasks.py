"""Long Range Arena's Text and Image, and their short forms, against bytes, Pillow and means taken here."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from conftest import picture, write_split
from PIL import Image

from tasks import TASKS
from tasks.data import Source
from tasks.grey import grey, pooled
from tasks.task import Split
from tasks.thin import thinned

TEXTS = [f"{'well' if label else 'badly'} made, caf\u00e9 number {n} " * 30 for n in range(40) for label in (0, 1)]


def reviews(root: Path) -> str:
    source = TASKS.get("lra-text").data
    for split in source.splits:
        write_split(root, source, split, [f"{split} {text}" for text in TEXTS], [n % 2 for n in range(len(TEXTS))])
    return str(root)


def test_text_is_the_reviews_bytes_cut_where_it_says(tmp_path: Path) -> None:
    data = TASKS.build("lra-text", max_length=300).load(reviews(tmp_path))
    assert (data.input.length, data.input.size, data.input.pad) == (300, 257, 0)
    assert [len(split) for split in (data.train, data.held_out, data.test)] == [72, 8, 80]
    for row, text in zip(data.test.inputs, data.test.texts or [], strict=True):
        assert bytes(row.astype(np.uint8) - 1) == text.encode()[:300]
    assert data.protocol.startswith("lra-text: ")
    assert TASKS.build("lra-text").max_length == 4096


def test_short_text_is_a_balanced_part_of_the_same_splits(tmp_path: Path) -> None:
    root = reviews(tmp_path)
    whole = TASKS.build("lra-text", max_length=100).load(root)
    short = TASKS.build("lra-text-short", max_length=100, train=20, held_out=4, test=10).load(root)
    for part, of, count in (
        (short.train, whole.train, 20),
        (short.held_out, whole.held_out, 4),
        (short.test, whole.test, 10),
    ):
        assert len(part) == count
        assert part.labels.sum() * 2 == count
        assert {row.tobytes() for row in part.inputs} <= {row.tobytes() for row in of.inputs}
        assert part.texts is None


def photographs(root: Path, source: Source) -> list[bytes]:
    rng = random.Random(1)
    made = [picture(rng, (32, 32, 3)) for _ in range(60)]
    for split in source.splits:
        samples = [{"bytes": one, "path": None} for one in made]
        write_split(root, source, split, samples, [n % 10 for n in range(len(samples))])
    return made


def test_image_is_pillow_s_grey_in_reading_order(tmp_path: Path) -> None:
    made = photographs(tmp_path, TASKS.get("lra-image").data)
    data = TASKS.build("lra-image", fraction=0.5).load(str(tmp_path))
    expected = np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("L")).ravel() for one in made])
    np.testing.assert_array_equal(np.stack(list(data.test.inputs)), expected)
    assert (data.input.kind, data.input.length, data.input.size, data.input.pad) == ("tokens", 1024, 257, 256)
    features = TASKS.build("lra-image", reading="continuous", fraction=0.5).load(str(tmp_path))
    np.testing.assert_allclose(features.test.inputs[:, :, 0], (expected - 122.6) / 61, atol=1e-5)
    assert (features.input.kind, features.input.size) == ("features", 1)
    assert [len(split) for split in (data.train, data.held_out, data.test)] == [30, 30, 60]


def test_short_images_are_means_of_four(tmp_path: Path) -> None:
    made = photographs(tmp_path, TASKS.get("lra-image-short").data)
    data = TASKS.build("lra-image-short").load(str(tmp_path))
    level = np.asarray(Image.open(io.BytesIO(made[0])).convert("L"))
    means = [[np.floor(level[y : y + 2, x : x + 2].mean() + 0.5) for x in range(0, 32, 2)] for y in range(0, 32, 2)]
    np.testing.assert_array_equal(data.test.inputs[0], np.ravel(means))
    assert data.input.length == 256


def test_every_colour_s_grey_is_pillow_s_and_pooling_keeps_flat_areas() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    for pixels, luma in zip(colours, grey(colours), strict=True):
        np.testing.assert_array_equal(luma, np.asarray(Image.fromarray(pixels).convert("L")))
    np.testing.assert_array_equal(pooled(np.full((1, 4, 4), 255, np.uint8)), np.full((1, 2, 2), 255))


def test_fewer_rows_keep_their_order_and_the_share_of_labels() -> None:
    labels = np.repeat([0, 1], [300, 100])
    split = Split(np.arange(400, dtype=np.float32)[:, None, None], labels, [str(n) for n in range(400)])
    part = thinned(split, 40, seed=3)
    assert np.bincount(part.labels).tolist() == [30, 10]
    rows = part.inputs[:, 0, 0].astype(int).tolist()
    assert rows == sorted(rows)
    assert part.texts == [str(row) for row in rows]
    assert thinned(split, 400, seed=3) is split


def test_real_reviews_have_the_published_sizes(real_data: str) -> None:
    data = TASKS.build("lra-text").load(real_data)
    assert (len(data.train) + len(data.held_out), len(data.test)) == (25000, 25000)
    assert abs(len(data.held_out) - 2500) <= 50  # copies of a review stay together
