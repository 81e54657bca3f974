"""Few-shot readers against closed forms and brute force, and the stroke code against what it promises."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from baselines import fewshot_code as code
from baselines.fewshot import fewshot
from baselines.fewshot_readers import READERS
from neurons.errors import UsageError
from tasks.fewshot.episodes import Episode, Pool, digits


def strokes(count: int = 12, side: int = 40, seed: int = 0) -> np.ndarray:
    """Drawings of three straight strokes each."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, side, side), np.float32)
    for picture, _ in product(found, range(3)):
        (y0, x0), (y1, x1) = rng.integers(8, side - 8, size=(2, 2))
        for t in np.linspace(0, 1, 60):
            picture[round(y0 + t * (y1 - y0)), round(x0 + t * (x1 - x0))] = 1
    return found


@pytest.fixture
def episode() -> Episode:
    pictures = strokes()
    return Episode(pictures[:6], np.tile(np.arange(3), 2), pictures[6:], np.tile(np.arange(3), 2))


def codes(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    return tuple(code.stroke_code(torch.from_numpy(x)).double().numpy() for x in (episode.support, episode.query))  # type: ignore[return-value]


def test_blur_is_scipys_gaussian() -> None:
    x = torch.rand(2, 3, 20, 17)
    wanted = [[gaussian_filter(c, 1.7, mode="constant", truncate=3.0) for c in row] for row in x.numpy()]
    np.testing.assert_allclose(code.blurred(x, 1.7).numpy(), wanted, atol=1e-6)


def test_the_code_does_not_see_place_or_size_but_does_see_direction() -> None:
    picture = torch.from_numpy(strokes(1))
    large = F.interpolate(picture[:, None], scale_factor=2, mode="bilinear")[:, 0]
    still, moved, grown, turned = (
        code.stroke_code(x)[0] for x in (picture, picture.roll((4, -5), (1, 2)), large, picture.transpose(1, 2))
    )
    assert float(still @ still) == pytest.approx(1)
    assert float(still @ moved) > 0.999
    assert float(still @ grown) > 0.9
    assert float(still @ turned) < 0.5
    assert torch.isfinite(code.stroke_code(torch.zeros(1, 9, 9))).all()  # a picture without ink


def test_hebb_is_the_nearest_prototype_of_sums_and_one_shot_the_nearest_code(episode: Episode) -> None:
    support, query = codes(episode)
    sums = np.stack([support[episode.classes == c].sum(0) for c in range(3)])
    np.testing.assert_array_equal(READERS["fast-weights-hebb"](episode, 0), (query @ sums.T).argmax(1))
    single = Episode(episode.support[:3], np.arange(3), episode.query, episode.answers)
    np.testing.assert_array_equal(READERS["fast-weights-hebb"](single, 0), READERS["nearest-code"](single, 0))


def test_delta_is_the_rule_step_by_step(episode: Episode) -> None:
    support, query = codes(episode)
    weights = np.zeros((support.shape[1], 3))
    for key, label in zip(support, episode.classes, strict=True):
        weights += 0.05 * np.outer(key, np.eye(3)[label] - key @ weights)
    np.testing.assert_array_equal(READERS["fast-weights-delta"](episode, 0), (query @ weights).argmax(1))


def test_rls_is_kernel_ridge_regression(episode: Episode) -> None:
    support, query = codes(episode)
    dual = np.linalg.solve(support @ support.T + np.eye(6), np.eye(3)[episode.classes])
    np.testing.assert_array_equal(READERS["fast-weights-rls"](episode, 0), (query @ support.T @ dual).argmax(1))


def test_modified_hausdorff_is_brute_force(episode: Episode) -> None:
    def points(picture: np.ndarray) -> np.ndarray:
        found = np.argwhere(picture > 0.5).astype(float)
        return np.round(found - found.mean(0))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
        return max(apart.min(1).mean(), apart.min(0).mean())

    table = [[distance(points(q), points(s)) for s in episode.support] for q in episode.query]
    wanted = episode.classes[np.argmin(table, axis=1)]
    np.testing.assert_array_equal(READERS["modified-hausdorff"](episode, 0), wanted)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_repeats_itself_reads_no_answers_and_names_classes(name: str, episode: Episode) -> None:
    first = READERS[name](episode, 3)
    blind = Episode(episode.support, episode.classes, episode.query, np.full(6, -1))
    np.testing.assert_array_equal(first, READERS[name](blind, 3))
    assert first.shape == (6,)
    assert set(first.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("name", ["nearest-code", "linear-probe", "fine-tuned-twin", "fast-weights-hebb"])
def test_what_learns_answers_its_own_support(name: str, episode: Episode) -> None:
    own = Episode(episode.support, episode.classes, episode.support, episode.classes)
    assert (READERS[name](own, 0) == own.answers).mean() >= 5 / 6


def test_the_document_pairs_readers_on_the_same_episodes() -> None:
    found = fewshot("digits", way=3, shot=1, queries=2, count=3, seeds=2, readers=("fast-weights-hebb",))
    floor, fast = found["rows"]
    assert (floor["reader"], fast["reader"], found["episodes"], found["queries"]) == (
        "nearest-pixel", "fast-weights-hebb", 6, 36,
    )  # fmt: skip
    assert fast["to_floor"]["mean"] == pytest.approx(np.mean(np.subtract(fast["values"], floor["values"])))
    assert "points to nearest-pixel" in found["verdict"]


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'nearest-code'"):
        fewshot("digits", way=2, shot=1, readers=("nearest-cod",))
    with pytest.raises(UsageError, match="Did you mean 'digits'"):
        fewshot("digit", way=2, shot=1)
    with pytest.raises(UsageError, match="Lake's runs are 20-way 1-shot"):
        fewshot("lake", way=5, shot=1)
    assert isinstance(digits(), Pool)
