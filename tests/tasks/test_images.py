"""Pictures: decoding against Pillow pixel by pixel, two readings, the cache, damaged files, the real data sets."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from neurons.errors import DataError, UsageError
from tasks import TASKS, images
from tasks.data import Source, describe, locate
from tests.tasks.conftest import picture, write_split

NAMES = ("mnist", "fashion-mnist", "cifar10")
REAL = {"mnist": (60000, 10000), "fashion-mnist": (60000, 10000), "cifar10": (50000, 10000)}


def pixel(encoded: bytes, row: int, column: int) -> list[int]:
    """One pixel, by Pillow's own look-up."""
    level: Any = Image.open(io.BytesIO(encoded)).getpixel((column, row))
    return [level] if isinstance(level, int) else list(level)


@pytest.mark.parametrize(("shape", "format"), [((3, 5, 1), "PNG"), ((4, 3, 3), "PNG"), ((4, 3, 3), "WEBP")])
def test_decoding_keeps_rows_columns_and_channels_apart(shape: tuple[int, int, int], format: str) -> None:
    rng = random.Random(1)
    encoded = [picture(rng, shape, format) for _ in range(3)]
    decoded = images.decode(encoded, shape, where="here")
    assert decoded.shape == (3, *shape)
    for index, row, column in np.ndindex(3, *shape[:2]):
        assert decoded[index, row, column].tolist() == pixel(encoded[index], row, column)


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_pixels_are_two_readings_of_the_same_levels(name: str, hub_folder: Callable[[Source], str]) -> None:
    source = TASKS.get(name).data
    root = hub_folder(source)
    rows, pixels = (TASKS.build(name, reading=reading).load(root) for reading in ("rows", "pixels"))
    height, width, channels = source.image
    assert (rows.input.length, rows.input.size) == (height, width * channels)
    assert (pixels.input.length, pixels.input.size) == (height * width, channels)
    levels = np.asarray(rows.test.inputs)
    np.testing.assert_array_equal(levels.reshape(len(rows.test), -1, channels), pixels.test.inputs)
    found, _, _ = images.load_images(source, root, task=name)
    np.testing.assert_array_equal(np.rint(levels.reshape(-1, *source.image) * 255), found["test"])
    assert levels.min() >= 0
    assert levels.max() == 1.0


def test_pictures_are_decoded_once_and_anew_when_they_change(
    hub_folder: Callable[[Source], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    decoded = []
    real = images.decode
    monkeypatch.setattr(images, "decode", lambda *args, **kwargs: decoded.append(1) or real(*args, **kwargs))
    source = TASKS.get("mnist").data
    root = hub_folder(source)
    first = TASKS.build("mnist").load(root)
    assert len(decoded) == 2  # train and test
    assert TASKS.build("mnist", seed=0).load(root).split_hash == first.split_hash
    assert len(decoded) == 2
    rng = random.Random(5)
    changed = [{"bytes": picture(rng, source.image), "path": None} for _ in range(10)]
    write_split(Path(root), source, "test", changed, list(range(10)))
    assert TASKS.build("mnist").load(root).split_hash != first.split_hash
    assert len(decoded) == 4


GOOD = picture(random.Random(0), (28, 28, 1))
BAD = {
    "not pictures": (pa.array(["a", "b"]), ["column 'image'", "string", "not pictures"]),
    "missing": (pa.array([{"bytes": GOOD}, {"bytes": None}]), ["column 'image', row 1", "missing"]),
    "damaged": (pa.array([{"bytes": GOOD}, {"bytes": GOOD[:60]}]), ["test, row 1", "decoded"]),
    "no format": (pa.array([{"bytes": b"no picture"}, {"bytes": GOOD}]), ["test, row 0", "decoded"]),
    "another size": (
        pa.array([{"bytes": GOOD}, {"bytes": picture(random.Random(0), (8, 9, 1))}]),
        ["test, row 1", "8 x 9, not 28 x 28"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pictures_are_one_line_with_their_row(case: str, hub_folder: Callable[[Source], str]) -> None:
    column, parts = BAD[case]
    source = TASKS.get("mnist").data
    root = hub_folder(source)
    write_split(Path(root), source, "test", column, [0, 1])
    with pytest.raises(DataError) as caught:
        TASKS.build("mnist").load(root)
    said = str(caught.value)
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_a_reading_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rows.*pixels"):
        TASKS.get("mnist")(reading="columns")


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_the_real_pictures_are_those_recorded(name: str, real_data: str) -> None:
    source = TASKS.get(name).data
    if locate(source, real_data) is None:
        pytest.skip(f"real data: no folder {source.folder} in NEURONS_DATA_DIR")
    told = describe(source, real_data, read=True)
    assert told["rows"] == dict(zip(("train", "test"), REAL[name], strict=True))
    assert told["verified"] is True


@pytest.mark.data
def test_the_real_mnist_has_its_known_statistics_and_no_shared_picture(real_data: str) -> None:
    """Mean .1307 and deviation .3081 of MNIST's 60,000 train pictures: the constants of every normalisation recipe."""
    source = TASKS.get("mnist").data
    if locate(source, real_data) is None:
        pytest.skip("real data: no folder mnist in NEURONS_DATA_DIR")
    data = TASKS.build("mnist").load(real_data)
    train = np.concatenate([np.asarray(data.train.inputs), np.asarray(data.held_out.inputs)])
    assert len(train) == 60000
    assert train.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)
    assert train.std(dtype=np.float64) == pytest.approx(0.3081, abs=1e-4)
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    seen = {row.tobytes() for row in train}
    assert not any(row.tobytes() in seen for row in np.asarray(data.test.inputs))
