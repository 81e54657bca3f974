"""Floors of Long Range Arena against readings by hand and the quoted shares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from baselines import FLOORS
from baselines.floors import operator_reader
from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.metrics import accuracy
from tasks.suites.listops import SYMBOLS, evaluate
from tasks.task import Split, TaskData


@pytest.fixture(scope="module")
def listops(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return TASKS.build("listops", train=1500, held_out=10, test=1500).load()


def rows(*expressions: str, labels: list[int]) -> Split:
    return Split([np.array([SYMBOLS.index(s) + 1 for s in text.split()]) for text in expressions], np.array(labels))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_reader_is_exact_to_its_level_and_no_further(levels: int, listops: TaskData) -> None:
    deep = ["4", "[SM 4 8 ]"]
    for outer in ("[MIN 5 {} 6 ]", "[MAX 1 {} 2 ]", "[MAX 0 {} 0 ]"):
        deep.append(outer.format(deep[-1]))
    floor = FLOORS.build(f"depth-{levels}-reader").fit(listops)
    asked = rows(*deep[: levels + 1], labels=[0] * (levels + 1))
    assert floor.predict(asked).tolist() == [evaluate(text) for text in deep[: levels + 1]]
    # One level more: SM is uniform if it is not read, and the least of it, 5 and 6 most often 5.
    floor.below[SYMBOLS.index("[SM") + 1] = np.arange(1, 11) / 10
    assert evaluate(deep[levels + 1]) == 2
    assert floor.predict(rows(deep[levels + 1], labels=[0])).tolist() == [5]


def test_a_guess_follows_the_distribution_of_training(listops: TaskData) -> None:
    """MED of 4, 4 and a subtree is 4 whatever it is; MAX of 3 and a subtree that is 2, 2, 2, 9 or 9 is most often 3."""
    train = rows("[SM 1 [MAX 2 2 ] [MAX 2 ] [MAX 2 1 ] [MAX 9 1 ] [MAX 9 ] [MIN 0 [MAX 7 ] [MAX 7 ] ] ]", labels=[2])
    floor = FLOORS.build("depth-1-reader").fit(dataclasses.replace(listops, train=train))
    np.testing.assert_allclose(floor.below[SYMBOLS.index("[MAX") + 1], [0, 0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 1])
    asked = rows("[MED 4 4 [MAX 1 ] ]", "[MAX 3 [MAX 7 7 ] ]", "[MAX 3 [MAX 1 ] [MAX 1 ] ]", labels=[0] * 3)
    assert floor.predict(asked).tolist() == [4, 3, 9]  # two draws: a 9 among them in 64 of 100


def test_root_digits_by_hand(listops: TaskData) -> None:
    train = rows(
        "[MIN 3 5 [MAX 0 0 ] ]", "[MIN 3 7 ]", "[MIN 3 9 ]", "[SM 3 1 ]", "[MAX [MIN 1 1 ] ]", labels=[0, 3, 3, 4, 1]
    )
    floor = FLOORS.build("root-digits").fit(dataclasses.replace(listops, train=train))
    asked = rows("[MIN 8 3 [SM 0 0 ] ]", "[SM 9 9 ]", "[MAX [MIN 4 4 ] ]", "[MED 1 ]", labels=[0] * 4)
    assert floor.predict(asked).tolist() == [3, 4, 1, 3]


@pytest.mark.parametrize(
    ("name", "share"),
    [("root-digits", 0.426), ("depth-1-reader", 0.608), ("depth-2-reader", 0.76), ("depth-3-reader", 0.86)],
)
def test_floors_stand_where_they_are_quoted(name: str, share: float, listops: TaskData) -> None:
    """Within three standard errors of 1,500 samples."""
    floor = FLOORS.build(name).fit(listops)
    error = (share * (1 - share) / len(listops.test)) ** 0.5
    assert accuracy(floor.predict(listops.test), listops.test.labels) == pytest.approx(share, abs=3 * error + 0.005)


def test_readers_say_that_they_read_listops_alone() -> None:
    digits = TASKS.build("digits").load()
    for name in ("root-digits", "depth-1-reader"):
        assert "ListOps" in (FLOORS.build(name).fits(digits) or "")
    assert SYMBOLS[operator_reader.CLOSE - 1] == "]"


def ordered(count: int, gap: int, seed: int) -> Split:
    """Symbols 1 to 4 in pairs of 1 and 2 with ``gap`` symbols 3 or 4 between: label 1 where 1 comes first."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    inputs = rng.integers(3, 5, (count, 40))
    for row, label in zip(inputs, labels, strict=True):
        for start in (3, 15, 27):
            row[[start, start + gap]] = (1, 2) if label else (2, 1)
    return Split(list(inputs.astype(np.int32)), labels)


@pytest.mark.parametrize(("gap", "seen"), [(2, True), (6, False)])
def test_a_convolution_sees_five_steps_and_no_further(gap: int, seen: bool, listops: TaskData) -> None:
    specs = {"input": InputSpec("tokens", 40, 5), "output": OutputSpec("label", 2)}
    parts = {name: ordered(200, gap, seed) for seed, name in enumerate(("train", "held_out", "test"))}
    data = dataclasses.replace(listops, **parts, **specs)
    floor = FLOORS.build("convolution", width=16, epochs=20).fit(data)
    assert (accuracy(floor.predict(data.test), data.test.labels) > 0.9) == seen


def curves(count: int, seed: int) -> Split:
    """Two dim lines across 20 x 20 pixels that a bright one joins; markers on one of them (1) or on each (0)."""
    rng = np.random.default_rng(seed)
    images, labels = np.zeros((count, 20, 20), np.uint8), np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        first, second = rng.integers(2, 7), rng.integers(12, 17)
        image[first, 2:18] = image[second, 2:18] = 130
        image[first : second + 1, rng.integers(5, 14)] = 255
        for row, column in ((first, 2), (first if label else second, 17)):
            image[row - 1 : row + 2, column - 1 : column + 2] = 140
    return Split(list(images.reshape(count, 400)), labels)


def test_brightness_drops_what_outshines_the_targets(listops: TaskData) -> None:
    specs = {"input": InputSpec("tokens", 400, 257, 256), "output": OutputSpec("label", 2)}
    data = dataclasses.replace(listops, train=curves(60, 0), held_out=curves(20, 1), test=curves(60, 2), **specs)
    floor = FLOORS.build("brightness").fit(data)
    assert accuracy(floor.predict(data.test), data.test.labels) == 1
    even = Split([np.where(row == 255, 130, row) for row in data.test.inputs], data.test.labels)
    assert accuracy(floor.predict(even), even.labels) == 0.5  # joined: every answer is the same
    features = Split(np.stack(data.test.inputs)[:, :, None].astype(np.float32) / 255, data.test.labels)
    np.testing.assert_array_equal(floor.predict(features), floor.predict(data.test))
    assert "square" in (FLOORS.build("brightness").fits(listops) or "")
