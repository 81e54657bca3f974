"""Pair matching against a reader that knows the words, and Retrieval's files as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import papers

from baselines import FLOORS
from neurons.errors import DataError, UsageError
from tasks import TASKS
from tasks.metrics import accuracy
from tasks.suites.pair_matching import generate, vocabulary

OPTIONS = {"length": 200, "words": 40, "topic": 3, "share": 0.6}


def words_of(ids: np.ndarray) -> list[str]:
    return bytes(ids[ids > 0] - 1).decode("ascii").split(" ")


def test_documents_are_words_of_one_vocabulary_and_the_label_says_whether_their_favourites_agree() -> None:
    pairs, labels = generate(300, seed=1, **OPTIONS)
    known = {bytes(row[row > 0] - 1).decode().removesuffix(" ") for row in vocabulary(40, 1)}
    assert len(known) == 40
    assert all(3 <= len(word) <= 8 and word.isalpha() and word.islower() for word in known)
    agree = []
    for pair in pairs:
        favourites = []
        for document in pair:
            size = int((document > 0).sum())
            assert 100 <= size <= 200
            assert not document[size:].any()
            words = [word for word in words_of(document)[:-1] if word]  # the last may be cut
            assert set(words) <= known
            counts = {word: words.count(word) for word in set(words)}
            favourites.append(set(sorted(counts, key=lambda word: (-counts[word], word))[:3]))
        agree.append(len(favourites[0] & favourites[1]) >= 2)
    assert (np.array(agree) == labels.astype(bool)).mean() > 0.9
    assert 0.4 < labels.mean() < 0.6


def test_a_longer_list_goes_on_where_a_shorter_one_ends() -> None:
    short, long = generate(40, seed=2, **OPTIONS), generate(300, seed=2, **OPTIONS)
    np.testing.assert_array_equal(short[0], long[0][:40])
    np.testing.assert_array_equal(short[1], long[1][:40])
    assert not np.array_equal(generate(40, seed=3, **OPTIONS)[0], short[0])
    with pytest.raises(UsageError, match="topic"):
        generate(4, seed=0, length=100, words=3, topic=4, share=0.5)


def test_the_bag_of_bytes_reads_a_little_and_not_everything() -> None:
    data = TASKS.build("pair-matching-short", train=1500, held_out=300, test=600).load()
    floor = FLOORS.build("logistic-regression").fit(data)
    assert 0.6 < accuracy(floor.predict(data.test), data.test.labels) < 0.95
    assert "pairs" in (FLOORS.build("root-operator").fits(data) or "")


def test_retrieval_reads_the_published_files(tmp_path: Path) -> None:
    root = papers(tmp_path)
    data = TASKS.build("lra-retrieval", max_length=20).load(root)
    lines = (tmp_path / "aan" / "new_aan_pairs.eval.tsv").read_text().splitlines()
    assert [len(split) for split in (data.train, data.held_out, data.test)] == [30, 30, 30]
    for line, row, label in zip(lines, data.held_out.inputs, data.held_out.labels, strict=True):
        answer, _, _, first, second = line.split("\t")
        assert label == float(answer)
        assert [bytes(sequence[sequence > 0] - 1) for sequence in row.astype(np.uint8)] == [
            first.encode()[:20],
            second.encode()[:20],
        ]
    assert data.input.pair
    with pytest.raises(UsageError, match="at least one byte"):
        TASKS.build("lra-retrieval", max_length=0)


def test_retrieval_without_its_files_says_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)
    with pytest.raises(DataError) as caught:
        TASKS.build("lra-retrieval").load()
    for told in ("new_aan_pairs.train.tsv", "'aan'", "--data-dir", "NEURONS_DATA_DIR", "pair-matching"):
        assert told in str(caught.value)
    papers(tmp_path)
    (tmp_path / "aan" / "new_aan_pairs.test.tsv").unlink()
    with pytest.raises(DataError, match=r"new_aan_pairs\.test\.tsv is missing"):
        TASKS.build("lra-retrieval").load(str(tmp_path))
    (tmp_path / "aan" / "new_aan_pairs.train.tsv").write_text("1.0\tonly three\tfields\n")
    with pytest.raises(DataError, match="line 1: not a label"):
        TASKS.build("lra-retrieval").load(str(tmp_path))
