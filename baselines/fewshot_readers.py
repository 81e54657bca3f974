"""What answers a few-shot episode. None has met a character before: each learns from the support set alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.fewshot_code import stroke_code
from neurons.ops.fast_weights import chunked
from neurons.ops.fast_weights_rls import rls_chunked
from tasks.fewshot.episodes import Episode

Reader = Callable[[Episode, int], np.ndarray]  # an episode and a seed -> answers (m,)


def nearest_pixel(episode: Episode, seed: int) -> np.ndarray:
    """The class whose mean picture has the largest cosine with the query's pixels: the floor."""
    support, query = torch.from_numpy(episode.support), torch.from_numpy(episode.query)
    return _nearest_mean(support.flatten(1), query.flatten(1), episode)


def modified_hausdorff(episode: Episode, seed: int) -> np.ndarray:
    """The class of the nearest support picture by the modified Hausdorff distance (Dubuisson & Jain 1994).

    max(d(A, B), d(B, A)), d(A, B) the mean over ink a of A of the distance to the nearest ink of B, both centred: the
    classical reference without learning, 38.8 % errors on Lake's runs (Lake et al. 2015).
    """
    (a, to_a), (b, to_b) = (_distances(pictures) for pictures in (episode.query, episode.support))
    there = (a / a.sum(1, keepdims=True)) @ to_b.T
    back = (b / b.sum(1, keepdims=True)) @ to_a.T
    nearest: np.ndarray = episode.classes[np.maximum(there, back.T).argmin(1)]
    return nearest


def nearest_code(episode: Episode, seed: int) -> np.ndarray:
    """As ``nearest_pixel``, by the stroke code: what the code is worth without fast weights."""
    return _nearest_mean(*_codes(episode), episode)


def linear_probe(episode: Episode, seed: int) -> np.ndarray:
    """Multinomial logistic regression on the stroke code, C = 10, to convergence."""
    from sklearn.linear_model import LogisticRegression

    support, query = (code.numpy() for code in _codes(episode))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: np.ndarray = LogisticRegression(C=10.0, max_iter=500).fit(support, episode.classes).predict(query)
    return found


def fine_tuned_twin(episode: Episode, seed: int) -> np.ndarray:
    """A network on the stroke code, 128 hidden units, all of it trained on the support set: 100 steps of Adam, 1e-3."""
    support, query = _codes(episode)
    labels = torch.from_numpy(episode.classes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin = nn.Sequential(nn.Linear(support.shape[1], 128), nn.ReLU(), nn.Linear(128, episode.way))
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for _ in range(100):
        adam.zero_grad()
        F.cross_entropy(twin(support), labels).backward()
        adam.step()
    with torch.no_grad():
        found: np.ndarray = twin(query).argmax(1).numpy()
    return found


def fast_weights(rule: Literal["hebb", "delta", "rls"]) -> Reader:
    """One pass over the support set: key = stroke code, value = class as a one-hot vector; a query reads W^T q.

    No decay. The delta rule writes with eta = .05: the codes have a common cosine of .24, and a step that forgets
    nothing else must be small (with eta = 1 the class that came last answers most queries). Ridge 1 for least squares.
    """

    def read(episode: Episode, seed: int) -> np.ndarray:
        support, query = _codes(episode)
        value = F.one_hot(torch.from_numpy(episode.classes), episode.way).float()
        # After the support set, steps with silent keys: they write nothing, and read with a query each.
        keys = torch.cat([support, torch.zeros_like(query)])[None, None]
        values = torch.cat([value, value.new_zeros(len(query), episode.way)])[None, None]
        queries = torch.cat([torch.zeros_like(support), query])[None, None]
        rate, one = torch.zeros(1), torch.ones(1)
        if rule == "rls":
            answers, _ = rls_chunked(keys, values, queries, rate=rate[0], ridge=1.0, period=keys.shape[2])
        else:
            write = one if rule == "hebb" else torch.tensor([0.05])
            answers, _ = chunked(keys, values, queries, rate=rate, write=write, read=one, rule=rule, final=False)
        found: np.ndarray = answers[0, 0, len(support) :].argmax(1).numpy()
        return found

    return read


def fast_weights_off(episode: Episode, seed: int) -> np.ndarray:
    """The same network without its fast weights: nothing was written, so it answers by lot."""
    return np.random.default_rng(seed).integers(episode.way, size=len(episode.query))


READERS: dict[str, Reader] = {
    "nearest-pixel": nearest_pixel,
    "modified-hausdorff": modified_hausdorff,
    "nearest-code": nearest_code,
    "linear-probe": linear_probe,
    "fine-tuned-twin": fine_tuned_twin,
    "fast-weights-hebb": fast_weights("hebb"),
    "fast-weights-delta": fast_weights("delta"),
    "fast-weights-rls": fast_weights("rls"),
    "fast-weights-off": fast_weights_off,
}


@lru_cache(maxsize=1)
def _codes(episode: Episode) -> tuple[Tensor, Tensor]:
    """Stroke codes of the support and of the queries; the readers of an episode share them."""
    return stroke_code(torch.from_numpy(episode.support)), stroke_code(torch.from_numpy(episode.query))


def _nearest_mean(support: Tensor, query: Tensor, episode: Episode) -> np.ndarray:
    taught = F.one_hot(torch.from_numpy(episode.classes), episode.way).to(support)
    found: np.ndarray = (F.normalize(query, dim=1) @ F.normalize(taught.T @ support, dim=1).T).argmax(1).numpy()
    return found


def _distances(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred ink (n, P) as 0 and 1, and the distance of every place to it, (n, P) in pixels."""
    n, height, width = pictures.shape
    ink = np.zeros((n, 2 * height, 2 * width))
    for row, picture in enumerate(pictures):
        y, x = np.nonzero(picture > 0.5)
        ink[row, np.round(y - y.mean() + height).astype(int), np.round(x - x.mean() + width).astype(int)] = 1
    away = np.stack([distance_transform_edt(picture == 0) for picture in ink])
    return ink.reshape(n, -1), away.reshape(n, -1)
