"""A run's language model on the tasks of EleutherAI's lm-evaluation-harness (the extra ``lm``).

The harness asks for log-likelihoods of a text behind another one, of whole texts, and for text that goes on; here each
is answered by the run's own codec and model. No symbol is predicted from more than the ``length`` symbols that the
model was built for:

- a text behind a context: the window that ends with it, cut on the left; one longer than half a window goes on in
  windows half a length apart, so that every symbol of it sees half a window at least, where so much precedes it;
- a whole text: chunks, the last moved back to end with it.

The models know no symbol for the beginning of a text: an empty line stands for it, as in ``neurons sample``.
Source: Gao et al. 2021, lm-evaluation-harness 0.4.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from baselines.experiment import load_run
from baselines.sampling import Choice, sample, text_data
from baselines.scoring import rows_at_once
from baselines.setup import Setup
from learning.precision import Precision, autocast
from learning.run import RunDirectory
from neurons.errors import DataError, UsageError, nearest
from neurons.specs import IGNORE, Batch
from tasks.codec import PAD
from tasks.data import data_root
from tasks.language import TextData, windows

BEGINNING = "\n"
DRAWS = 100  # of the bootstrap behind the standard error of what is no mean

Row = tuple[Tensor, Tensor]  # symbols (t,) and their targets (t,), IGNORE where nothing is asked


class RunLM(TemplateLM):
    """The model of ``made`` as the harness asks it; ``strange`` collects the characters that training never saw."""

    def __init__(self, made: Setup, data: TextData, *, precision: Precision = "float32") -> None:
        super().__init__()
        self.model, self._device, self.precision = made.model.eval(), made.device, precision
        self.codec, self.length, self.rows = data.codec, data.input.length, rows_at_once(data)
        self.never = torch.tensor([not piece for piece in self.codec.pieces])
        self.strange: set[str] = set()

    @property
    def eot_token_id(self) -> int:
        return int(self.codec.encode(BEGINNING)[0])

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        ids = self.codec.encode(string)
        if self.codec.unknown is not None:
            self.strange |= {string[i] for i in np.flatnonzero(ids == self.codec.unknown)}
        return [int(i) for i in ids]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self._answered([self._behind(before, ids) for _, before, ids in requests])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        asked = [self._cut([self.eot_token_id], self.tok_encode(one.args[0]), self.length) for one in requests]
        return [nats for nats, _ in self._answered(asked)]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedily unless a request asks for samples, whose seed is its place."""
        texts = []
        for place, (context, asked) in enumerate(one.args for one in requests):
            options = normalize_gen_kwargs(asked)
            ids = (self.tok_encode(context) or [self.eot_token_id])[-self.length :]
            choice = Choice(
                options["temperature"] if options["do_sample"] else 0.0, asked.get("top_k"), asked.get("top_p")
            )
            stops = [text for text in options["until"] if text]
            found = sample(
                self.model, self.codec, ids, length=options["max_gen_toks"], choice=choice, seed=0, number=place,
                stops=stops,
            )  # fmt: skip
            texts.append(found.text)
        return texts

    def _behind(self, before: list[int], ids: list[int]) -> list[Row]:
        """The rows that answer for ``ids`` behind ``before``, of which what no window reaches is cut."""
        half = self.length // 2
        kept = max(self.length + 1 - len(ids), half, 1)
        return self._cut(before[-kept:], ids, max(half, 1))

    def _cut(self, before: list[int], ids: list[int], stride: int) -> list[Row]:
        """Windows ``stride`` symbols apart over both; of the targets those of ``ids`` alone."""
        if not ids:
            return []
        tokens = np.array(before + ids, dtype=np.int64)
        read, asked = windows(np.arange(len(tokens)), context=self.length, stride=stride)
        rows = []
        for inputs, targets in zip(read, asked, strict=True):
            wanted = np.where(targets >= len(before), tokens[np.maximum(targets, 0)], IGNORE)
            rows.append((torch.from_numpy(tokens[inputs]), torch.from_numpy(wanted)))
        return rows

    @torch.no_grad()
    def _answered(self, requests: Sequence[list[Row]]) -> list[tuple[float, bool]]:
        """Of each request the log-likelihood of its targets in nats, summed over its rows, and whether every one is
        the likeliest symbol that a text may hold."""
        rows = [(number, row) for number, request in enumerate(requests) for row in request]
        nats, greedy = [0.0] * len(requests), [True] * len(requests)
        rows.sort(key=lambda one: len(one[1][0]))
        for start in range(0, len(rows), self.rows):
            chosen = rows[start : start + self.rows]
            x = pad_sequence([inputs for _, (inputs, _) in chosen], batch_first=True, padding_value=PAD)
            y = pad_sequence([targets for _, (_, targets) in chosen], batch_first=True, padding_value=IGNORE)
            lengths = torch.tensor([len(inputs) for _, (inputs, _) in chosen])
            batch = Batch(x, y, torch.arange(x.shape[1]) < lengths[:, None]).to(self._device)
            with autocast(self._device, self.precision):
                logits = self.model(batch).float().cpu()
            costs = F.cross_entropy(logits.transpose(1, 2), y, ignore_index=IGNORE, reduction="none").sum(1)
            likeliest = logits.masked_fill(self.never, -torch.inf).argmax(-1)
            hits = ((likeliest == y) | (y == IGNORE)).all(1)
            for (number, _), cost, hit in zip(chosen, costs.tolist(), hits.tolist(), strict=True):
                nats[number] -= cost
                greedy[number] &= hit
        return list(zip(nats, greedy, strict=True))


def harness(run: Path, names: Sequence[str], *, limit: int | None = None, manager: Any = None) -> dict[str, Any]:
    """Metrics of the run on the harness's tasks ``names``, or YAML files of tasks, on the first ``limit`` samples each.

    Where the data root holds a folder named as the task's data set (``hellaswag`` of ``Rowan/hellaswag``), that is read
    instead of the hub: ``<folder>[/<config>]/<split>*.jsonl`` or ``.parquet``. UsageError where a name is unknown or
    the run learned no text, DataError where a task's data cannot be had.
    """
    made = load_run(run)
    data = text_data(made, run)
    config = RunDirectory(run).config
    model = RunLM(made, data, precision=config["precision"])
    manager = manager or TaskManager()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        specs = [_spec(name, manager, data_root(config["data_dir"]), Path(folder)) for name in names]
        try:
            found = simple_evaluate(
                model, tasks=specs, limit=limit, task_manager=manager, bootstrap_iters=DRAWS, log_samples=False
            )
        except OSError as error:  # what datasets and the hub's client raise where there is no data
            told = " ".join(str(error).split())
            raise DataError(
                f"the harness found no data for {', '.join(names)}: {told}. Name a folder that holds it by"
                " NEURONS_DATA_DIR"
            ) from error
    return {
        "run": str(run),
        "tasks": {name: _metrics(name, found) for name in found["results"]},
        "limit": limit,
        "unit": data.codec.unit,
        "length": data.input.length,
        "never_seen": sorted(model.strange),
        "lm_eval": version("lm-eval"),
    }


def _spec(name: str, manager: Any, root: Path | None, folder: Path) -> str:
    """What the harness is asked for: the task's name, a YAML file, or one in ``folder`` that reads the local copy."""
    entry = manager.task_index.get(name)
    if entry is None:
        if Path(name).suffix not in (".yaml", ".yml"):
            close = nearest(name, manager.all_tasks)
            raise UsageError(f"the harness has no task '{name}'.{close} Try: lm-eval ls tasks, or the task's YAML file")
        if not Path(name).is_file():
            raise UsageError(f"no file '{name}' of a harness task")
        return name
    task = {} if entry.yaml_path is None else load_yaml(entry.yaml_path)
    place = None if root is None else _local(task, root)
    if place is None:
        return name
    changed = {"task": name, "include": str(entry.yaml_path), "dataset_path": str(place), "dataset_name": None}
    made = folder / f"{name}.yaml"  # JSON is YAML
    made.write_text(json.dumps(changed | _missing(task, place)), encoding="utf-8")
    return str(made)


def _local(task: dict[str, Any], root: Path) -> Path | None:
    """The folder below ``root`` with the files of the task's data set, or None."""
    folder = str(task.get("dataset_path", "")).rpartition("/")[2]
    place = root / folder
    if not folder or not place.is_dir():
        return None
    config = place / str(task.get("dataset_name") or "default")
    return config if config.is_dir() else place


def _missing(task: dict[str, Any], place: Path) -> dict[str, None]:
    """The task's splits that have no file in ``place``, unset; DataError where none is left to be asked."""
    splits = {key: task[key] for key in ("training_split", "validation_split", "test_split") if task.get(key)}
    lacking = {key: None for key, split in splits.items() if not any(place.glob(f"{split}*"))}
    if not set(splits) - set(lacking) - {"training_split"}:
        wanted = " or ".join(f"{split}*.jsonl" for key, split in splits.items() if key != "training_split")
        raise DataError(f"{place} has no {wanted} (or .parquet) for the harness task '{task['task']}'")
    return lacking


def _metrics(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Of one task: ``metrics`` by name with their standard error (None: none is known), and what they were taken on."""
    told = found["results"][name]
    metrics = {}
    for key, value in told.items():
        metric, _, reading = key.partition(",")
        if not reading or metric.endswith("_stderr"):
            continue
        error = told.get(f"{metric}_stderr,{reading}")
        metrics[metric if reading == "none" else f"{metric} ({reading})"] = {
            "value": value,
            "standard_error": error if isinstance(error, float) and math.isfinite(error) else None,
            "higher_is_better": found["higher_is_better"].get(name, {}).get(metric),
        }
    source = str(found["configs"].get(name, {}).get("dataset_path", ""))
    return {
        "metrics": metrics,
        "samples": found["n-samples"].get(name, {}).get("effective"),
        "data": f"local:{Path(source).name}" if Path(source).is_absolute() else source,
        "version": found["versions"].get(name),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the harness prints goes to stderr, and its bootstrap starts no processes."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
