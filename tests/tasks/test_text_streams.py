"""Streams of text: what their tasks hold, on made-up files and on the real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from neurons.errors import DataError, UsageError
from tasks import STREAMS, TASKS
from tasks.continual.stream import SPLITS, StreamData
from tasks.continual.streams.text import running_text
from tasks.data import Source
from tasks.hashing import hashed

NAMES = ("sentiment-domains", "split-corpora")


@pytest.fixture
def root(hub_folder: Callable[[Source], str]) -> str:
    """Made-up files of every base."""
    bases = {base for name in NAMES for base in STREAMS.get(name).bases}
    sources = [TASKS.get(base).data for base in sorted(bases)]
    return [hub_folder(source) for source in sources if source is not None][-1]


def rows(stream: StreamData, task: int, split: str) -> set[bytes]:
    return {row.tobytes() for row in np.asarray(stream.tasks[task].split(split).inputs)}


def test_sentiment_is_one_question_about_two_kinds_of_text(root: str) -> None:
    stream = STREAMS.build("sentiment-domains", size=64).load(root)
    assert [task.title for task in stream.tasks] == ["phrases and sentences", "reviews"]
    assert [task.outputs for task in stream.tasks] == [(0, 1), (0, 1)]
    for task, base in zip(stream.tasks, ("sst2", "imdb"), strict=True):
        data = TASKS.build(base, level="byte").load(root)
        for name in SPLITS:
            wanted = getattr(data, name)
            split = task.split(name)
            np.testing.assert_array_equal(np.asarray(split.inputs)[:, 0], hashed(wanted.texts, size=64))
            np.testing.assert_array_equal(split.labels, wanted.labels)


def test_rows_are_drawn_in_proportion(root: str) -> None:
    whole = STREAMS.build("sentiment-domains", size=64).load(root)
    few = STREAMS.build("sentiment-domains", size=64, rows=20).load(root)
    for task, small in zip(whole.tasks, few.tasks, strict=True):
        for name in SPLITS:
            assert small.size(name) == pytest.approx(min(20, task.size(name)), abs=1)
        shares = [np.bincount(one.split("train").labels, minlength=2) / one.size("train") for one in (task, small)]
        np.testing.assert_allclose(*shares, atol=0.06)
    assert rows(few, 1, "train") < rows(whole, 1, "train")
    assert rows(few, 1, "train") != rows(
        STREAMS.build("sentiment-domains", size=64, rows=20, seed=1).load(root), 1, "train"
    )


def test_corpora_are_cut_into_windows_that_do_not_overlap(root: str) -> None:
    stream = STREAMS.build("split-corpora", size=64, window=40, rows=10**6).load(root)
    assert [task.title for task in stream.tasks] == ["shakespeare, wikitext103-partial, stdlib", "imdb, sst2"]
    assert stream.output.size == 5
    for base, label in (("shakespeare", 0), ("sst2", 4)):
        options = STREAMS.get("split-corpora").bases[base]
        text = running_text(TASKS.build(base, **options).load(root), "test").encode()
        windows = [text[start : start + 40].decode(errors="ignore") for start in range(0, len(text) - 39, 40)]
        split = stream.tasks[label // 3].split("test")
        found = np.asarray(split.inputs)[split.labels == label]
        np.testing.assert_array_equal(found[:, 0], hashed(windows, size=64))


def test_the_running_text_of_a_corpus_is_its_text(root: str) -> None:
    task = TASKS.build("shakespeare", unit="bytes", context=64)
    corpus, data = task.corpus(root), task.load(root)
    assert [running_text(data, name) for name in SPLITS] == [corpus.train, corpus.held_out, corpus.test]


def test_groups_name_the_corpora_of_a_task(root: str) -> None:
    stream = STREAMS.build("split-corpora", size=64, window=40, groups="3,0/4,2", scenario="domain").load(root)
    assert [task.title for task in stream.tasks] == ["imdb, shakespeare", "sst2, stdlib"]
    assert stream.output.size == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_hash_sees_every_option(name: str, root: str) -> None:
    changed: dict[str, Any] = {
        "scenario": "task", "groups": "0,3/1,4", "rows": 30, "window": 50, "size": 32, "seed": 3,
    }  # fmt: skip
    small = {"size": 64, "rows": 40}
    options = [option for option in STREAMS.entry(name).defaults() if option != "tasks"]
    given = [small, *(small | {option: changed[option]} for option in options)]
    hashes = [STREAMS.build(name, **one).load(root).split_hash for one in given]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == STREAMS.build(name, **small).load(root).split_hash


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_one_line(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        DataError, match=f"no data for task '{next(iter(STREAMS.get(name).bases))}'.*--data-dir"
    ) as caught:
        STREAMS.build(name).load(str(tmp_path))
    assert "\n" not in str(caught.value)


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no rows": ("sentiment-domains", {"rows": 0}, "rows is 8 or more, not 0"),
    "no features": ("split-corpora", {"size": 1}, "size is 16 or more, not 1"),
    "no window": ("split-corpora", {"window": 1}, "window is 8 bytes or more"),
    "negative seed": ("sentiment-domains", {"seed": -1}, "seed is 0 or more"),
    "one corpus a task": ("split-corpora", {"tasks": 4}, "holds one class"),
    "more tasks than corpora": ("split-corpora", {"tasks": 6}, "6 tasks from 5 classes: at most 2"),
    "a corpus that is not there": ("split-corpora", {"groups": "0,1/2,7"}, "class 7, but the data has classes 0..4"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_stream_is_one_clear_line(case: str, root: str) -> None:
    name, options, said = BAD[case]
    with pytest.raises(UsageError, match=said) as caught:
        STREAMS.build(name, **{"window": 40} | options if name == "split-corpora" else options).load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_real_files(name: str, real_data: str) -> None:
    """The tasks are there, of the size asked for, and a nearest class mean tells their labels apart."""
    stream = STREAMS.build(name, rows=2000).load(real_data)
    for task in stream.tasks:
        train, test = task.split("train"), task.split("test")
        assert len(train) >= 1999
        means = np.stack([np.asarray(train.inputs)[train.labels == output].mean((0, 1)) for output in task.outputs])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        right = np.asarray(task.outputs)[(np.asarray(test.inputs)[:, 0] @ means.T).argmax(1)] == test.labels
        assert right.mean() > 1 / len(task.outputs) + 0.08
    assert not rows(stream, 1, "train") & rows(stream, 1, "test")
