"""A stream of random features that trains in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from baselines.continual import GradientLearner
from learning import RULES
from neurons import MODELS
from neurons.model import Model
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.batches import collate
from tasks.continual.stream import Part, StreamData, StreamTask, assembled
from tasks.task import Split, TaskData


def tiny_data(rows: int = 48, classes: int = 6, seed: int = 0) -> TaskData:
    """``rows`` of (2, 3) features about one centre a class, in each split."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 2, 3)) * 2

    def split() -> Split:
        labels = np.arange(rows) % classes
        return Split((centres[labels] + rng.normal(size=(rows, 2, 3))).astype(np.float32), labels)

    return TaskData(
        split(), split(), split(), InputSpec("features", 2, 3), OutputSpec("label", classes), "generated:x", "x"
    )


def tiny_stream(scenario: Any = "class", **options: Any) -> StreamData:
    """Three tasks of two classes."""
    data = tiny_data(**options)
    return assembled([Part(str(c), data, (c, c + 1)) for c in (0, 2, 4)], scenario=scenario, protocol="")


def tiny_model(stream: StreamData, *, dropout: float = 0.0, width: int = 9) -> Model:
    torch.manual_seed(0)
    model: Model = MODELS.build("mlp", input=stream.input, output=stream.output, width=width, layers=2, dropout=dropout)
    return model


def tiny_learner(stream: StreamData, strategy: Any, **options: Any) -> GradientLearner:
    model = tiny_model(stream, dropout=options.pop("dropout", 0.0))
    return GradientLearner(
        model, RULES.build("backprop"), strategy, **{"steps": 12, "batch_size": 8, "lr": 0.01} | options
    )


def whole(task: StreamTask, split: str = "train") -> Batch:
    rows = task.split(split)
    return collate(rows, np.arange(len(rows)), task.input)
