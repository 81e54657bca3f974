"""What every task promises, for every task in the registry, on made-up or generated data."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import papers

from neurons.errors import DataError, UsageError
from tasks import TASKS
from tasks.task import Split, Task, TaskData

NAMES = TASKS.names()


def small(name: str) -> dict[str, int]:
    """Options that make a generated task small."""
    sizes = {option.name for option in TASKS.entry(name).options if option.annotation == "int"}
    count = {"pathx": 8}.get(name, 120)  # 15 ms a picture
    return {size: count for size in ("train", "held_out", "test") if size in sizes}


@pytest.fixture
def load(hub_folder: Callable[..., str], tmp_path: Path) -> Callable[[str], tuple[Task, TaskData]]:
    def loaded(name: str) -> tuple[Task, TaskData]:
        task = TASKS.build(name, **small(name))
        if name == "lra-retrieval":
            return task, task.load(papers(tmp_path))
        return task, task.load(hub_folder(task.data) if task.data is not None else None)

    return loaded


def splits(data: TaskData) -> dict[str, Split]:
    return {"train": data.train, "held_out": data.held_out, "test": data.test}


def unpadded(split: Split, pad: int) -> list[np.ndarray]:
    """Both sequences of every pair, without what pads them on the right."""
    assert all(row.ndim == 2 and len(row) == 2 for row in split.inputs)
    return [sequence[: np.flatnonzero(sequence != pad)[-1] + 1] for row in split.inputs for sequence in row]


@pytest.mark.parametrize("name", NAMES)
def test_splits_hold_what_the_specs_say(name: str, load: Callable[[str], tuple[Task, TaskData]]) -> None:
    _, data = load(name)
    for split in splits(data).values():
        assert len(split) > 0
        assert split.labels.dtype == np.int64
        if data.output.kind == "label":
            assert split.labels.min() >= 0
            assert split.labels.max() < data.output.size
        if data.input.kind == "tokens":
            assert len(split.inputs) == len(split)
            rows = list(split.inputs) if not data.input.pair else unpadded(split, data.input.pad)
            assert all(row.ndim == 1 and 1 <= len(row) <= data.input.length for row in rows)
            flat = np.concatenate(rows)
            assert np.issubdtype(flat.dtype, np.integer)
            assert flat.min() >= 0
            assert flat.max() < data.input.size
            assert data.input.pad not in flat
        else:
            assert isinstance(split.inputs, np.ndarray)
            assert split.inputs.shape == (len(split), data.input.length, data.input.size)
            assert split.inputs.dtype == np.float32
            assert np.isfinite(split.inputs).all()
        assert split.texts is None or len(split.texts) == len(split)


@pytest.mark.parametrize("name", [name for name in NAMES if small(name)])
def test_splits_without_rows_or_of_negative_size_are_refused(name: str) -> None:
    for options in ({"train": -5}, {"held_out": 0}, {"test": -1}, {"seed": -1}):
        with pytest.raises(UsageError, match=f"task.{next(iter(options))} is"):
            TASKS.build(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_no_input_is_in_two_splits(name: str, load: Callable[[str], tuple[Task, TaskData]]) -> None:
    task, data = load(name)
    if not task.disjoint:
        pytest.skip("the protocol does not promise it")
    kept = {split: {row.tobytes() for row in part.inputs} for split, part in splits(data).items()}
    for one, other in (("train", "held_out"), ("train", "test"), ("held_out", "test")):
        assert not kept[one] & kept[other], (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_says_where_the_data_is_from_and_what_was_done(name: str, load: Callable[[str], tuple[Task, TaskData]]) -> None:
    task, data = load(name)
    assert data.source.split(":")[0] in ("local", "hub", "generated", "package")
    for split in splits(data).values():
        assert str(len(split)) in data.protocol
    assert task.floors
    assert all(isinstance(floor, str) for floor in task.floors)


@pytest.mark.parametrize("name", [name for name in NAMES if TASKS.get(name).data is not None])
def test_missing_data_names_the_three_ways(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    task = TASKS.build(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)
    monkeypatch.setattr(type(task), "data", dataclasses.replace(task.data, hub="no-such-owner/no-such-data"))
    with pytest.raises(DataError) as caught:
        task.load(str(tmp_path))
    said = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in said
    for way in (name, "--data-dir", "NEURONS_DATA_DIR", task.data.folder, "no-such-owner/no-such-data", "generator"):
        assert way in said


def test_split_hashes_are_the_same_in_another_process_without_the_cache(
    load: Callable[[str], tuple[Task, TaskData]], tmp_path: object
) -> None:
    here = {name: load(name)[1].split_hash for name in NAMES}
    script = (
        "import json; from tasks import TASKS\n"
        f"small = {[(name, small(name)) for name in NAMES]!r}\n"
        f"print(json.dumps({{n: TASKS.build(n, **o).load({str(tmp_path)!r}).split_hash for n, o in small}}))"
    )
    environment = {**os.environ, "NEURONS_CACHE": f"{tmp_path}/other", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == here


def test_split_hash_changes_with_a_label_and_with_the_order() -> None:
    data = TASKS.build("digits").load()
    labels = data.test.labels.copy()
    labels[0] = (labels[0] + 1) % 10
    relabelled = dataclasses.replace(data, test=Split(data.test.inputs, labels))
    turned = dataclasses.replace(data, test=Split(data.test.inputs[::-1], data.test.labels[::-1]))
    assert len({data.split_hash, relabelled.split_hash, turned.split_hash}) == 3
