"""What is measured on predictions, and on the likelihood of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neurons.specs import IGNORE


@dataclass(frozen=True)
class TextCounts:
    """UTF-8 ``bytes`` of the part of a text that is predicted, and whitespace-separated ``words`` of the whole text."""

    bytes: int
    words: int


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of ``predicted`` class numbers that equal ``labels``, of one shape, (n,) or (n, T); places that the labels
    mark IGNORE do not count."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    counted = labels != IGNORE
    if predicted.shape != labels.shape or not counted.any():
        raise ValueError(f"accuracy of {len(predicted)} predictions for {len(labels)} labels is undefined")
    return float(np.mean(predicted[counted] == labels[counted]))


def chance(train_labels: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on ``labels`` of always answering the most frequent of ``train_labels``: nothing was learned."""
    train_labels, labels = np.asarray(train_labels), np.asarray(labels)
    most = np.bincount(train_labels[train_labels != IGNORE]).argmax()
    return float(np.mean(labels[labels != IGNORE] == most))


def bits_per_byte(nats: float, counts: TextCounts) -> float:
    """nats / (ln 2 * bytes), ``nats`` the negative log-likelihood of a text: comparable between vocabularies."""
    return nats / (math.log(2) * counts.bytes)


def perplexity(nats: float, count: int) -> float:
    """exp(nats / count); infinite where that leaves the range of a float."""
    mean = nats / max(count, 1)
    return math.exp(mean) if mean < 700 else math.inf


def language_metrics(nats: float, tokens: int, counts: TextCounts) -> dict[str, float]:
    """``bits_per_byte``, ``nats_per_token``, ``token_ppl`` and ``word_ppl`` of a text of ``tokens`` predicted symbols
    whose negative log-likelihood is ``nats``: per word it is spread over the words, whatever the symbols are."""
    return {
        "bits_per_byte": bits_per_byte(nats, counts),
        "nats_per_token": nats / tokens,
        "token_ppl": perplexity(nats, tokens),
        "word_ppl": perplexity(nats, counts.words),
    }
