"""Episodes: nothing that is asked was shown, and what cannot be drawn is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest

from neurons.errors import DataError, UsageError
from tasks.data import data_root
from tasks.fewshot import omniglot
from tasks.fewshot.episodes import Pool, digits


def pool(classes: int = 6, each: int = 5) -> Pool:
    """Every picture is its own number, so that it can be told where it came from."""
    labels = np.arange(classes * each) % classes
    return Pool("numbers", np.arange(classes * each, dtype=np.float32).reshape(-1, 1, 1), labels, "generated")


def test_an_episode_has_its_classes_shots_and_queries_and_none_twice() -> None:
    whole = pool()
    episode = whole.draw(way=4, shot=2, queries=3, seed=7)
    assert episode.classes.tolist() == [0, 1, 2, 3] * 2
    assert episode.answers.tolist() == [0, 1, 2, 3] * 3
    assert episode.way == 4
    support, query = episode.support.ravel().astype(int), episode.query.ravel().astype(int)
    assert len({*support, *query}) == 20
    real = whole.labels[support[:4]]  # the classes behind the names 0..3
    assert len(set(real)) == 4
    assert (whole.labels[support] == real[episode.classes]).all()
    assert (whole.labels[query] == real[episode.answers]).all()


def test_a_seed_is_an_episode() -> None:
    first, again, other = (pool().draw(way=3, shot=1, queries=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.query, again.query)
    assert not np.array_equal(first.query, other.query)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"way": 7, "shot": 1, "queries": 1}, "has 6 classes: 7-way cannot be"),
        ({"way": 3, "shot": 4, "queries": 2}, "5 pictures of some class: 4 to learn from and 2 to ask"),
        ({"way": 1, "shot": 1, "queries": 1}, "2 classes, 1 shot and 1 query at least"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked: dict[str, int], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        pool().draw(seed=0, **asked)


def test_digits_are_all_there() -> None:
    found = digits()
    assert found.pictures.shape == (1797, 8, 8)
    assert (float(found.pictures.max()), len(set(found.labels.tolist()))) == (1.0, 10)


def test_missing_omniglot_names_the_way_out(tmp_path: object) -> None:
    with pytest.raises(DataError, match="--data digits"):
        omniglot.background(str(tmp_path))


@pytest.mark.skipif(
    data_root() is None or not (data_root() / "omniglot").is_dir(),  # type: ignore[operator]
    reason="needs the local folder omniglot (NEURONS_DATA_DIR)",
)
def test_lakes_runs_are_twenty_of_twenty() -> None:
    runs = omniglot.one_shot_runs()
    assert len(runs) == 20
    for run in runs:
        assert run.support.shape == run.query.shape == (20, 105, 105)
        assert sorted(run.answers.tolist()) == list(range(20))
        assert 0.01 < run.support.mean() < 0.2  # ink is high, and there is little of it
    background = omniglot.background()
    assert background.pictures.shape == (2720, 105, 105)
    assert set(np.unique(background.labels, return_counts=True)[1].tolist()) == {20}
