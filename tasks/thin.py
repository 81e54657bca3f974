"""Fewer rows of a split, for tasks that take minutes."""

from __future__ import annotations

import numpy as np

from tasks.data import stratified
from tasks.task import Split


def thinned(split: Split, count: int, seed: int) -> Split:
    """About ``count`` rows of ``split`` (all, if it has no more), each label in proportion, in their order."""
    if count >= len(split):
        return split
    _, chosen = stratified(split.labels, count / len(split), seed)
    inputs = split.inputs[chosen] if isinstance(split.inputs, np.ndarray) else [split.inputs[row] for row in chosen]
    texts = None if split.texts is None else [split.texts[row] for row in chosen]
    return Split(inputs, split.labels[chosen], texts)
