"""What a model, and every trivial reader, reaches on a split."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import sklearn
import torch
from torch import nn

from baselines import FLOORS
from baselines.floor import Floor
from baselines.setup import Setup, load_task
from learning.precision import Precision, autocast
from neurons.model import Model
from neurons.specs import IGNORE
from tasks.batches import evaluation_batches
from tasks.cache import cached_bytes, key
from tasks.task import Split, TaskData

EVALUATION_BATCH = 64


def rows_at_once(data: TaskData) -> int:
    """Rows of an evaluation batch: fewer where each brings logits at every step, of which 2^25 are held at most."""
    logits = data.input.length * data.output.size if data.output.kind == "token" else 1
    return max(1, min(EVALUATION_BATCH, (1 << 25) // logits))


def predict(
    model: Model, split: Split, data: TaskData, device: torch.device, precision: Precision
) -> tuple[np.ndarray, float, int]:
    """Predicted labels, or next tokens, of ``split`` in its own order; the cross-entropy of its targets, summed, in
    nats; and their number."""
    answers = np.zeros_like(split.labels)
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(device, precision):
        for indices, batch in evaluation_batches(split, data.input, rows_at_once(data)):
            batch = batch.to(device)
            logits = model(batch).float()
            answers[indices] = logits.argmax(-1).cpu().numpy()
            flat, targets = logits.flatten(0, -2), batch.y.flatten()
            total += float(nn.functional.cross_entropy(flat, targets, ignore_index=IGNORE, reduction="sum"))
            count += int((targets != IGNORE).sum())
    model.train(was_training)
    return answers, total, count


def score(made: Setup, split: Split, precision: Precision) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of ``split``, ``primary`` among them, and the predictions they come from."""
    answers, nats, count = predict(made.model, split, made.data, made.device, precision)
    metrics = made.task.score(split, predicted=answers, nats=nats)
    return {"primary": metrics[made.task.primary], **metrics, "loss": nats / max(count, 1)}, answers


def floors(config: dict[str, Any]) -> dict[str, float]:
    """The primary metric on the test split of every trivial reader that the task names and that can read this data;
    fitted once per split and version of its library, and kept in the cache."""
    task, data, split_hash = load_task(config)
    found = {}
    for name in task.floors:
        floor = FLOORS.build(name)
        if floor.fits(data) is not None:
            continue

        def fitted(floor: Floor = floor) -> bytes:
            return json.dumps(floor.fit(data).score(task, data.test)).encode()

        made_from = key(floor=name, version=1, split=split_hash, sklearn=sklearn.__version__)
        found[name] = json.loads(cached_bytes(f"floor-{name}-{made_from}.json", fitted))
    return found
