"""How SST-2 and IMDB are split, against brute force, and both on slices of the real data."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks import TASKS
from tasks.data import Rows, Source, locate
from tasks.suites.imdb import split_reviews
from tasks.suites.sst2 import split_by_sentence
from tests.tasks.conftest import phrases, sentence, write_split


def contains(outer: str, inner: str) -> bool:
    return f" {' '.join(inner.lower().split())} " in f" {' '.join(outer.lower().split())} "


@pytest.mark.parametrize("seed", [0, 1])
def test_no_phrase_of_a_held_out_sentence_is_trained_on(seed: int) -> None:
    rng = random.Random(seed)
    texts = [text for _ in range(100) for text in phrases(rng)] + ["bax", "Bax EM", "bax em ", "urban"]
    texts = [text.upper() if rng.random() < 0.3 else text for text in texts]
    rng.shuffle(texts)
    kept, held_out = split_by_sentence(texts, fraction=0.2, seed=seed)
    maximal = [
        row
        for row, text in enumerate(texts)
        if not any(contains(other, text) and len(other.split()) > len(text.split()) for other in texts)
    ]
    assert set(held_out) <= set(maximal)
    assert len(held_out) == round(0.2 * len(maximal))
    leaked = {
        row
        for row, text in enumerate(texts)
        if len(text.split()) > 1 and any(contains(texts[i], text) for i in held_out)
    }
    assert set(kept) == set(range(len(texts))) - leaked - set(held_out)
    assert 0 < len(leaked) < len(texts) / 2


def test_the_plain_sample_of_rows_keeps_all(hub_folder: Callable[[Source], str]) -> None:
    task = TASKS.build("sst2", holdout="phrases", fraction=0.2)
    data = task.load(hub_folder(task.data))
    assert (len(data.train), len(data.held_out)) == (72, 18)
    assert sorted([*data.train.texts, *data.held_out.texts]) == sorted(
        pq.read_table(Path(hub_folder(task.data)) / "glue/sst2/train-00000-of-00001.parquet")["sentence"].to_pylist()
    )


def test_copies_of_a_review_stay_on_one_side() -> None:
    rng = random.Random(0)
    texts = [sentence(rng) for _ in range(100)]
    train = Rows([*texts, *texts[:50]], np.array([row % 2 for row in range(100)] + [row % 2 for row in range(50)]))
    kept, held_out = split_reviews(train, fraction=0.1, seed=0)
    assert sorted([*kept, *held_out]) == list(range(150))
    assert not {train.texts[i] for i in kept} & {train.texts[i] for i in held_out}
    distinct = {train.texts[i]: train.labels[i] for i in held_out}
    assert sorted(distinct.values()) == [0] * 5 + [1] * 5


def test_imdb_is_the_same_from_either_order(hub_folder: Callable[[Source], str], tmp_path: Path) -> None:
    task = TASKS.build("imdb")
    root = hub_folder(task.data)
    before = task.load(root).split_hash
    for split in task.data.splits:
        table = pq.read_table(tmp_path / f"imdb/plain_text/{split}-00000-of-00001.parquet").to_pydict()
        write_split(tmp_path, task.data, split, table["text"][::-1], table["label"][::-1])
    assert task.load(root).split_hash == before


def test_line_break_tags_go_at_word_level(tmp_path: Path) -> None:
    task = TASKS.build("imdb", fraction=0.5)
    for split in task.data.splits:
        texts = [f"good{tag}film {i}" for i, tag in enumerate(["<br />", "<br/>", "<br /><br />", " "])]
        write_split(tmp_path, task.data, split, texts, [0, 0, 1, 1])
    assert all("br" not in text for text in task.load(str(tmp_path)).test.texts)
    assert any(
        "<br />" in text for text in TASKS.build("imdb", fraction=0.5, level="byte").load(str(tmp_path)).test.texts
    )


@pytest.mark.data
@pytest.mark.parametrize("level", ["word", "byte"])
@pytest.mark.parametrize("name", ["sst2", "imdb"])
def test_a_slice_of_the_real_data(name: str, level: str, real_data: str, tmp_path: Path) -> None:
    task = TASKS.build(name, level=level, vocabulary=2000)
    folder = locate(task.data, real_data)
    if folder is None:
        pytest.skip(f"real data: no folder {task.data.folder} in NEURONS_DATA_DIR")
    for split in task.data.splits:
        table = pq.read_table(folder / task.data.config / f"{split}-00000-of-00001.parquet")
        rows = table.take(np.linspace(0, table.num_rows - 1, 400).astype(int))
        write_split(tmp_path, task.data, split, rows[task.data.text], rows[task.data.label])
    data = task.load(str(tmp_path))
    assert len(data.test) == 400
    assert 0.3 < data.test.labels.mean() < 0.7
    if level == "word":
        unknown = np.concatenate(list(data.test.inputs)) == 1
        assert unknown.mean() < 0.01
    else:
        text = data.test.texts[0].encode()[: data.input.length]
        assert (data.test.inputs[0] - 1).astype(np.uint8).tobytes() == text
