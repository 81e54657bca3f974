"""The one place where task, model, rule and strategy meet: set up, run, evaluate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn
from tqdm import tqdm

from baselines import measure
from baselines import report_format as fmt
from baselines.at_chance import early_warning, no_better
from baselines.match import calibrated
from baselines.scoring import floors, rows_at_once, score
from baselines.setup import Setup, load_task, macs_per_step, setup, threads
from learning import distributed
from learning.checkpoint import load_weights
from learning.rule import StepReport
from learning.rules.probe import gradient_cosine
from learning.run import RunDirectory
from learning.trainer import FitReport
from neurons.errors import DataError, DivergedError
from tasks import TASKS
from tasks.batches import BatchStream, evaluation_batches
from tasks.task import Task, TaskData

PROBE_BATCHES = 4


def _no_update(report: StepReport) -> None:
    """For rules that interleave weight steps: a probe leaves the weights as they are."""


def probe(made: Setup, batches: int = PROBE_BATCHES) -> dict[str, float | None]:
    """Of the rule on held-out batches, means without dropout: ``cosine`` of its gradient to backpropagation's,
    ``stationarity`` (None where nothing settles) and ``passes``. All None if settling diverges there."""
    stream = BatchStream(made.data.held_out, made.data.input, batch_size=made.trainer.batch_size, seed=0)
    found = []
    was_training = made.model.training
    made.model.eval()
    try:
        for i in range(batches):
            batch = stream.batch(i).to(made.device)
            cosine = gradient_cosine(made.rule, made.model, batch)["cosine"]
            report = made.rule.step(made.model, batch, update=_no_update)
            found.append((cosine, report.scalars.get("stationarity"), report.passes))
    except DivergedError:
        return {"cosine": None, "stationarity": None, "passes": None}
    finally:
        made.model.zero_grad(set_to_none=True)
        made.model.train(was_training)
    cosines, left, passes = zip(*found, strict=True)
    settled = None if None in left else float(np.mean(left))
    return {"cosine": float(np.mean(cosines)), "stationarity": settled, "passes": float(np.mean(passes))}


def run(
    config: dict[str, Any], *, out: Path, resume: bool = False, progress: bool = False, minutes: float | None = None
) -> dict[str, Any]:
    """Train, select on held-out, touch the test split once, measure. Returns and writes ``result.json``.

    ``minutes`` becomes a step count by calibration before step 0; schedules see steps only. A finished run is not run
    again: with ``resume`` its result is returned.
    """
    with threads(config["threads"]):
        if minutes is not None and not (resume and (out / "config.json").exists()):
            config = calibrated(config, minutes)
        elif minutes is not None:  # the steps it was calibrated to then; all else must be what is asked now
            stored = RunDirectory(out).config.get("trainer", {})
            config = config | {"trainer": config["trainer"] | {"steps": stored.get("steps")}}
        if resume and (out / "config.json").exists():
            directory = RunDirectory.create(out, config, resume=True)
            if directory.result is not None and directory.status == "complete":
                return directory.result
        made = setup(config)  # before the folder: a configuration that cannot be built leaves none behind
        directory = RunDirectory.create(out, config, resume=resume)
        with directory.lock():
            return _run(config, made, directory, resume, progress)


def _run(config: dict[str, Any], made: Setup, directory: RunDirectory, resume: bool, progress: bool) -> dict[str, Any]:
    measure.reset_peak_memory(config["device"])
    precision = config["precision"]
    start = probe(made)

    def evaluate_held_out(_: nn.Module) -> dict[str, float]:
        metrics = score(made, made.data.held_out, precision)[0]
        told = early_warning(
            directory.rows(), metrics["primary"], steps=made.trainer.steps, task=made.task, data=made.data
        )
        if told is not None:  # above the bar, where there is one
            tqdm.write(f"{made.model.name} / {made.rule.name}, seed {config['seed']}: {told}", file=sys.stderr)
        return metrics

    fit = made.trainer.fit(
        made.model,
        made.rule,
        made.stream.batch,
        evaluate_held_out,
        run=directory,
        strategy=made.strategy,
        seed=config["seed"],
        device=str(made.device),
        precision=precision,
        higher_is_better=made.task.higher_is_better,
        resume=resume,
        progress=progress,
    )
    peak = measure.peak_memory_bytes(made.device)
    held_out, _ = score(made, made.data.held_out, precision)
    test, predictions = score(made, made.data.test, precision)
    result = _result(config, made, fit, held_out, test)
    result |= costs(made, fit.steps)
    result["memory"]["peak_bytes"] = peak
    result["metrics"] |= probed(start, probe(made))
    if not made.task.by_likelihood:  # of a text they would be the text again
        result["predictions"] = predictions.tolist()
    result["env"] = directory.environment
    result["warnings"] = fit.warnings + warnings(result, made.task, made.data)
    directory.write_result(result)
    return result


def _result(
    config: dict[str, Any], made: Setup, fit: FitReport, held_out: dict[str, float], test: dict[str, float]
) -> dict[str, Any]:
    data, model = made.data, made.model
    return {
        "schema": 1,
        "kind": "run",
        "status": "complete",
        "task": {
            "name": made.task.name,
            "protocol": data.protocol,
            "split": "test",
            "split_hash": data.split_hash,
            "data_source": data.source,
            "rows": {"train": len(data.train), "held_out": len(data.held_out), "test": len(data.test)},
        },
        "model": {"name": model.name, "parameters": model.parameter_counts(), "config": config["model"]["options"]},
        "rule": {"name": made.rule.name, "local": made.rule.local, "config": config["rule"]["options"]},
        "strategy": made.strategy.name,
        "seed": config["seed"],
        "world_size": distributed.size(),
        "primary": {
            "name": made.task.primary,
            "value": test["primary"],
            "higher_is_better": made.task.higher_is_better,
        },
        "metrics": {
            **{f"test_{name}": value for name, value in test.items() if name not in ("primary", made.task.primary)},
            "held_out": held_out["primary"],
            "held_out_loss": held_out["loss"],
            **{f"last_{name}": value for name, value in fit.scalars.items()},
        },
        "floors": floors(config),
        "budget": {"match": "steps", "value": made.trainer.steps},
        "train": {
            "seconds": fit.seconds,
            "steps": fit.steps,
            "samples_per_second": fit.samples_per_second,
            "tokens_per_second": fit.tokens_per_second,
            "best_step": fit.best_step,
        },
        "stopped_by": fit.stopped_by,
        "curve": fit.curve,
    }


def costs(made: Setup, steps: int) -> dict[str, Any]:
    """Inference, memory and arithmetic, on the test split's batch of median length; training MACs of ``steps``."""
    batches = list(evaluation_batches(made.data.test, made.data.input, rows_at_once(made.data)))
    batch = batches[len(batches) // 2][1].to(made.device)
    try:
        training: float | None = steps * macs_per_step(made)
    except DivergedError:
        training = None
    return {
        "inference": measure.inference(made.model, batch),
        "memory": {"saved_activation_bytes": measure.saved_activation_bytes(made.model, batch)},
        "cost": {"train_macs": training} | measure.inference_cost(made.model, batch),
    }


def probed(start: dict[str, float | None], end: dict[str, float | None]) -> dict[str, float | None]:
    """Two probes as metrics."""
    return {
        "cosine_to_backprop_start": start["cosine"],
        "cosine_to_backprop": end["cosine"],
        "rule_stationarity": end["stationarity"],
        "rule_passes": end["passes"],
    }


def warnings(result: dict[str, Any], task: Task, data: TaskData) -> list[str]:
    """What a reader must know before quoting the number: chance level, floors not reached."""
    value, better = result["primary"]["value"], 1 if task.higher_is_better else -1
    found = []
    level, whose = task.chance(data)
    if no_better(value, level, higher_is_better=task.higher_is_better):
        found.append(f"at chance level: {value:.3f} against {whose}")
    ahead = [f"{name} {floor:.3f}" for name, floor in result["floors"].items() if better * value < better * floor]
    if ahead:
        how = "below" if task.higher_is_better else "worse than"
        found.append(f"{how} a floor: {value:.3f} against {', '.join(ahead)}")
    return found


def load_run(run_dir: Path, options: dict[str, Any] | None = None) -> Setup:
    """A run, rebuilt from its config with its selected weights; ``options`` replace those of its task. DataError where
    its data is no longer what it learned from: symbols would mean something else, and the test may have been trained
    on."""
    directory = RunDirectory(run_dir)
    config = dict(directory.config)
    config["data_dir"] = os.environ.get("NEURONS_DATA_DIR") or config["data_dir"]
    learned, here = fmt.dig(directory.result, "task", "split_hash"), load_task(config)[2]
    if learned not in (None, here):
        raise DataError(
            f"'{run_dir}' learned from other data of task '{config['task']['name']}': split {learned}, here {here}."
            " Bring back that copy, or that version of what it is made from, or train again"
        )
    if options:
        task = config["task"]
        checked = TASKS.entry(task["name"]).validate("task", options)
        config["task"] = task | {"options": task["options"] | checked}
    made = setup(config)
    made.rule.prepare(made.model)  # what a rule adds to a model (muPC's scales) is in the checkpoint
    load_weights(directory.weights, made.model)
    return made


def evaluate(
    run_dir: Path, split: Literal["test", "held_out"] = "test", *, stride: int | None = None
) -> dict[str, Any]:
    """Metrics of a finished run on one of its splits; ``stride``: of a text, windows that far apart on the test."""
    options = {} if stride is None else {"stride": stride}
    made = load_run(run_dir, options)
    metrics, _ = score(made, getattr(made.data, split), RunDirectory(run_dir).config["precision"])
    value = metrics.pop("primary")
    primary = {"name": made.task.primary, "value": value, "higher_is_better": made.task.higher_is_better}
    return {
        "schema": 1,
        "kind": "evaluation",
        "run": str(run_dir),
        "split": split,
        "protocol": made.data.protocol,
        "primary": primary,
        "metrics": metrics,
    }


def default_out(config: dict[str, Any]) -> Path:
    """``runs/<task>/<model>-<rule>-s<seed>``, with a number behind it where that is taken."""
    base = (
        Path("runs") / config["task"]["name"] / f"{config['model']['name']}-{config['rule']['name']}-s{config['seed']}"
    )
    number, path = 2, base
    while path.exists():
        path = base.with_name(f"{base.name}-{number}")
        number += 1
    return path
