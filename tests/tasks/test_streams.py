"""What every stream promises, for every stream in the registry, and what each kind does to its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import rotate

from neurons.errors import UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks import STREAMS, TASKS
from tasks.continual.stream import Part, StreamData, assembled
from tasks.data import Source
from tasks.task import Split, TaskData

NAMES = STREAMS.names()
SCENARIOS = ("task", "domain", "class")
DIGITS = TASKS.build("digits").load()


@pytest.fixture
def load(hub_folder: Callable[[Source], str]) -> Callable[..., StreamData]:
    def loaded(name: str, **options: Any) -> StreamData:
        root = None
        for base in STREAMS.get(name).bases:
            source = TASKS.get(base).data
            root = root if source is None else hub_folder(source)
        return STREAMS.build(name, **options).load(root)

    return loaded


def base(stream: StreamData) -> TaskData:
    return stream.tasks[0].part.data


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_tasks_hold_what_the_specs_and_the_scenario_say(name: str, scenario: str, load: Any) -> None:
    stream = load(name, scenario=scenario)
    assert len(stream) == STREAMS.entry(name).defaults().get("tasks", len(STREAMS.get(name).bases))
    assert stream.scenario in stream.protocol
    used: list[int] = []
    for number, task in enumerate(stream.tasks):
        assert (task.index, task.count) == (number, len(stream))
        for name_of_split in ("train", "held_out", "test"):
            split = task.split(name_of_split)
            assert len(split) == task.size(name_of_split) > 0
            assert np.asarray(split.inputs).shape[1:] == (stream.input.length, stream.input.size)
            assert np.asarray(split.inputs).dtype == np.float32
            assert set(split.labels.tolist()) == set(task.outputs)
        used += task.outputs
    if scenario == "domain":
        assert set(used) == set(range(stream.output.size))
    else:
        assert used == list(range(stream.output.size))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outputs_that_compete(scenario: str) -> None:
    """Split digits, 5 tasks of 2: written out by hand for the second task in training."""
    stream = STREAMS.build("split-digits", scenario=scenario).load()
    second = stream.tasks[1]
    wanted = {"task": [2, 3], "domain": [0, 1], "class": [0, 1, 2, 3]}[scenario]
    for label in second.outputs:
        assert np.flatnonzero(second.active[label]).tolist() == wanted
    if scenario == "task":  # a replayed sample of the first task competes in its own head
        assert np.flatnonzero(second.active[0]).tolist() == [0, 1]
    at_test = {"task": [6, 7], "domain": [0, 1], "class": [0, 1, 2, 3]}[scenario]
    assert np.flatnonzero(stream.competing(2, 3)).tolist() == at_test
    untrained = {"task": [6, 7], "domain": [0, 1], "class": list(range(10))}[scenario]
    assert np.flatnonzero(stream.competing(0, 3)).tolist() == untrained
    assert stream.sees_task_id is (scenario == "task")


@pytest.mark.parametrize("name", [name for name in NAMES if "digits" in name])
def test_the_hash_is_the_same_again_and_another_for_every_option(name: str) -> None:
    options = STREAMS.entry(name).defaults()
    changed: dict[str, Any] = {
        "tasks": 4,
        "scenario": "task",
        "seed": 1,
        "degrees": 90.0,
        "groups": "0,1/2,3",
        "standardise": False,
    }
    first = STREAMS.build(name).load().split_hash
    assert first == STREAMS.build(name).load().split_hash
    hashes = [STREAMS.build(name, **{option: changed[option]}).load().split_hash for option in options]
    assert len({first, *hashes}) == 1 + len(options)


def test_the_hash_sees_the_data() -> None:
    def stream(data: TaskData) -> StreamData:
        return assembled([Part("a", data, (0, 1)), Part("b", data, (2, 3))], scenario="class", protocol="")

    labels = DIGITS.train.labels.copy()
    labels[-1] = (labels[-1] + 1) % 10
    other = dataclasses.replace(DIGITS, train=Split(DIGITS.train.inputs, labels))
    assert stream(DIGITS).split_hash == stream(DIGITS).split_hash != stream(other).split_hash


def test_permuted_tasks_shuffle_places_and_keep_labels() -> None:
    stream = STREAMS.build("permuted-digits", standardise=False).load()
    original = np.asarray(DIGITS.train.inputs).reshape(len(DIGITS.train), -1)
    np.testing.assert_array_equal(stream.tasks[0].split("train").inputs, DIGITS.train.inputs)
    orders = []
    for task in stream.tasks[1:]:
        split = task.split("train")
        changed = np.asarray(split.inputs).reshape(len(split), -1)
        np.testing.assert_array_equal(split.labels, DIGITS.train.labels)
        np.testing.assert_array_equal(np.sort(changed, axis=1), np.sort(original, axis=1))
        # one order for all rows and splits: column k of the task is one and the same column of the original
        columns = [int(np.flatnonzero((original == column[:, None]).all(axis=0))[0]) for column in changed.T]
        test = np.asarray(DIGITS.test.inputs).reshape(len(DIGITS.test), -1)
        found = np.asarray(task.split("test").inputs).reshape(len(test), -1)
        live = original.std(axis=0)[columns] > 0  # empty borders cannot be told apart
        np.testing.assert_array_equal(found[:, live], test[:, np.array(columns)[live]])
        orders.append(tuple(columns))
    assert len(set(orders)) == 9


@pytest.mark.parametrize("name", ["rotated-digits", "rotated-cifar10"])
def test_rotated_tasks_turn_every_picture_as_scipy_does(name: str, load: Any) -> None:
    stream = load(name, tasks=4, degrees=120.0, standardise=False)
    rows = np.asarray(base(stream).test.inputs)[:5]
    side = rows.shape[1]
    for number, task in enumerate(stream.tasks):
        found = np.asarray(task.split("test").inputs)[:5].reshape(5, side, side, -1)
        for picture, turned in zip(rows.reshape(5, side, side, -1), found, strict=True):
            for channel in range(picture.shape[-1]):
                wanted = rotate(picture[..., channel], 30.0 * number, reshape=False, order=1)
                np.testing.assert_allclose(turned[..., channel], wanted, atol=1e-5)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    stream = STREAMS.build("rotated-digits", tasks=2, degrees=180.0, standardise=False).load()
    turned = np.asarray(stream.tasks[1].split("test").inputs)
    np.testing.assert_allclose(turned, np.rot90(np.asarray(DIGITS.test.inputs), axes=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("name", ["permuted-digits", "rotated-digits", "split-digits"])
def test_levels_are_standardised_by_constants_of_the_data_set(name: str) -> None:
    """One mean and one deviation, of the whole train split, for every task and split; applied after the change."""
    plain, standard = (STREAMS.build(name, standardise=on).load() for on in (False, True))
    levels = np.asarray(DIGITS.train.inputs, dtype=np.float64)
    for one, other in zip(plain.tasks, standard.tasks, strict=True):
        for split in ("train", "test"):
            wanted = (np.asarray(one.split(split).inputs) - levels.mean()) / levels.std()
            np.testing.assert_allclose(other.split(split).inputs, wanted, atol=1e-5)
    assert f"levels less {levels.mean():.4f}, over {levels.std():.4f}" in standard.protocol
    assert "levels less" not in plain.protocol


def test_split_tasks_hold_their_classes_and_every_row_once() -> None:
    stream = STREAMS.build("split-digits", groups="7,3/0,1,2/9,8", standardise=False).load()
    assert [task.title for task in stream.tasks] == ["classes 7, 3", "classes 0, 1, 2", "classes 9, 8"]
    for task, classes in zip(stream.tasks, [(7, 3), (0, 1, 2), (9, 8)], strict=True):
        split = task.split("train")
        for output, label in zip(task.outputs, classes, strict=True):
            mine = np.asarray(split.inputs)[split.labels == output]
            np.testing.assert_array_equal(mine, np.asarray(DIGITS.train.inputs)[DIGITS.train.labels == label])
    assert [task.outputs for task in stream.tasks] == [(0, 1), (2, 3, 4), (5, 6)]
    whole = STREAMS.build("split-digits").load()
    pool = whole.pool(whole.tasks, "train")
    assert len(pool) == len(DIGITS.train)
    np.testing.assert_array_equal(np.bincount(pool.labels), np.bincount(DIGITS.train.labels))


def test_uneven_classes_share_the_widest_output_in_a_domain_stream() -> None:
    stream = STREAMS.build("split-digits", tasks=3, scenario="domain").load()
    assert [task.outputs for task in stream.tasks] == [(0, 1, 2, 3), (0, 1, 2), (0, 1, 2)]
    assert stream.output.size == 4


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "more tasks than classes": ("split-digits", {"tasks": 11}, "11 tasks from 10 classes: at most 5"),
    "one class": ("split-digits", {"tasks": 6}, r"task 5 .* holds one class \(8\)"),
    "one class by name": ("split-digits", {"groups": "0,1/2"}, r"task 2 .* holds one class \(2\)"),
    "no class": ("split-digits", {"groups": "0,1//2,3"}, "task 2 .* holds no class"),
    "overlapping labels": ("split-digits", {"groups": "0,1/1,2"}, "class 1 is in tasks 1 and 2.*overlap"),
    "class named twice": ("split-digits", {"groups": "0,0/1,2"}, "task 1 .* names a class twice"),
    "class that is not there": ("split-digits", {"groups": "0,1/2,12"}, "class 12, but the data has classes 0..9"),
    "no numbers": ("split-digits", {"groups": "a,b/c,d"}, "groups takes class numbers"),
    "one task": ("permuted-digits", {"tasks": 1}, "at least 2 tasks, not 1"),
    "one group": ("split-digits", {"groups": "0,1"}, "at least 2 tasks, not 1"),
    "no task": ("rotated-digits", {"tasks": 0}, "at least 2 tasks, not 0"),
    "unknown scenario": ("split-digits", {"scenario": "clas"}, "option 'scenario' takes"),
    "no rotation": ("rotated-digits", {"degrees": 0.0}, "above 0"),
    "negative seed": ("permuted-digits", {"seed": -1}, "at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_stream_is_one_clear_line(case: str) -> None:
    name, options, said = BAD[case]
    with pytest.raises(UsageError, match=said) as caught:
        STREAMS.build(name, **options).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "held_out", "test"])
def test_an_empty_task_is_refused(split: str) -> None:
    part = getattr(DIGITS, split)
    keep = part.labels < 6
    short = dataclasses.replace(DIGITS, **{split: Split(np.asarray(part.inputs)[keep], part.labels[keep])})
    with pytest.raises(UsageError, match=rf"task 2 .* is empty: no row of its classes in split '{split}'"):
        assembled([Part("a", short, (0, 1)), Part("b", short, (6, 7))], scenario="class", protocol="")
    with pytest.raises(UsageError, match=rf"has no row of class 6 in split '{split}'"):
        assembled([Part("a", short, (0, 1)), Part("b", short, (5, 6))], scenario="class", protocol="")


def test_tasks_of_one_stream_read_the_same_inputs() -> None:
    other = dataclasses.replace(DIGITS, input=InputSpec("features", length=64, size=1))
    with pytest.raises(UsageError, match=r"task 2 of the stream .* reads other inputs than the first"):
        assembled([Part("a", DIGITS, (0, 1)), Part("b", other, (2, 3))], scenario="class", protocol="")


def test_token_tasks_make_streams_too() -> None:
    """Ragged rows, as texts are: selected, relabelled, pooled."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 9, rng.integers(2, 6)) for _ in range(40)]
    split = Split(rows, np.arange(40) % 4)
    data = TaskData(split, split, split, InputSpec("tokens", 8, 9), OutputSpec("label", 4), "generated:x", "")
    stream = assembled([Part("a", data, (0, 1)), Part("b", data, (3, 2))], scenario="domain", protocol="")
    second = stream.tasks[1].split("train")
    wanted = [
        (row.tobytes(), {3: 0, 2: 1}[label])
        for row, label in zip(rows, split.labels.tolist(), strict=True)
        if label > 1
    ]
    assert [(row.tobytes(), label) for row, label in zip(second.inputs, second.labels, strict=True)] == wanted
    assert len(stream.pool(stream.tasks, "test")) == 40
