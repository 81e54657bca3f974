"""Strategies x seeds on one stream: what ``neurons continual`` runs, keeps and sums up."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines import LEARNERS, STRATEGIES
from baselines.continual import GradientLearner
from baselines.continual_stack import Stack, unstackable
from baselines.report_continual import write
from baselines.setup import threads
from baselines.stats import mean_interval, paired_difference
from learning import RULES
from learning.environment import environment
from learning.files import json_text, write_atomic
from learning.interrupt import Interrupted
from learning.run import identity
from learning.seeds import seed_everything
from neurons import MODELS
from neurons.errors import RunError, UsageError
from tasks import STREAMS
from tasks.continual.learner import Learner
from tasks.continual.protocol import Outcome, run, run_group
from tasks.continual.stream import StreamData

Result = dict[str, Any]
SUMMED = ("acc", "forgetting", "bwt", "learning_accuracy")


def load(config: dict[str, Any]) -> StreamData:
    data: StreamData = STREAMS.build(config["stream"]["name"], **config["stream"]["options"]).load(config["data_dir"])
    return data


def learner(config: dict[str, Any], data: StreamData, strategy: dict[str, Any], seed: int) -> Learner:
    """Model, rule and strategy of one seed, or a learner of its own kind; UsageError if the rule cannot train the
    model."""
    seed_everything(seed)
    if strategy["kind"] == "learner":
        native: Learner = LEARNERS.build(
            strategy["name"], input=data.input, output=data.output, seed=seed, **strategy["options"]
        )
        return native
    model = MODELS.build(config["model"]["name"], input=data.input, output=data.output, **config["model"]["options"])
    rule = RULES.build(config["rule"]["name"], **config["rule"]["options"])
    reason = rule.supports(model)
    if reason is not None:
        raise UsageError(f"rule '{rule.name}' cannot train model '{model.name}': {reason}")
    built = STRATEGIES.build(strategy["name"], **strategy["options"])
    return GradientLearner(model, rule, built, seed=seed, device=config["device"], **config["trainer"])


def continual(
    config: dict[str, Any], *, out: Path, jobs: int = 1, resume: bool = False, command: str | None = None
) -> dict[str, Any]:
    """Run every strategy with every seed, write ``continual.json`` and ``report.html`` under ``out``, return it.

    The seeds of a strategy are trained side by side where they can be (``unstackable``), else one after the other;
    ``jobs`` strategies at a time. A finished strategy is kept in ``out/strategies``, and ``resume`` does what is left.
    """
    kept = out / "config.json"
    if resume and kept.is_file():
        if identity(json.loads(kept.read_text())) != identity(config):
            raise UsageError(f"'{out}' holds another experiment. Repeat its command, or choose another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"'{out}' is not empty. Continue it with --resume auto, or choose another --out")
    data = load(config)
    for strategy in config["strategies"]:  # what cannot be built leaves no folder behind
        learner(config, data, strategy, config["seeds"][0])
    (out / "strategies").mkdir(parents=True, exist_ok=True)
    write_atomic(kept, json_text(config, indent=1).encode())
    files = [out / "strategies" / f"{number:02d}.json" for number in range(len(config["strategies"]))]
    left = [number for number, file in enumerate(files) if not file.is_file()]
    begun = time.perf_counter()
    try:
        for done, (number, results) in enumerate(_finished(config, left, jobs), 1):
            write_atomic(files[number], json_text(results).encode())
            spent = time.perf_counter() - begun
            acc = np.mean([result["metrics"]["acc"] for result in results])
            told = f"[{done}/{len(left)}] {config['strategies'][number]['label']}: ACC {100 * acc:.1f} %, "
            more = f", about {spent / done * (len(left) - done):.0f} s left" if done < len(left) else ""
            print(f"{told}{spent:.0f} s{more}", file=sys.stderr, flush=True)
    except (KeyboardInterrupt, Interrupted) as error:
        told = f"interrupted; finished strategies are kept in {out}. Continue: the same with --resume auto"
        raise Interrupted(told) from error
    results = [result for file in files for result in json.loads(file.read_text())]
    document = make_document(config, data, results) | {"command": command, "env": environment() | {"jobs": jobs}}
    write_atomic(out / "continual.json", (json_text(document, indent=1) + "\n").encode())
    write(document, out / "report.html")
    return document


def _finished(config: dict[str, Any], left: Sequence[int], jobs: int) -> Iterator[tuple[int, list[Result]]]:
    if jobs == 1:
        for number in left:
            yield number, run_strategy(config, number)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run_strategy, config, number): number for number in left}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_strategy(config: dict[str, Any], number: int) -> list[Result]:
    """One strategy with every seed: a result (schema 1) for each."""
    strategy = config["strategies"][number]
    with threads(config["threads"]):
        data = load(config)
        seeds, first = config["seeds"], learner(config, data, strategy, config["seeds"][0])
        if isinstance(first, GradientLearner) and unstackable(first) is None and len(seeds) > 1:
            stack: list[Any] = [learner(config, data, strategy, seed) for seed in seeds]
            outcomes = run_group(data, stack, Stack(stack).fit, split=config["split"], every=config["every"])
            return [_result(config, data, strategy, *one) for one in zip(seeds, stack, outcomes, strict=True)]
        results = []
        for seed in seeds:  # one in memory at a time
            one = learner(config, data, strategy, seed)
            seed_everything(seed)
            found = run(data, one, split=config["split"], every=config["every"])
            results.append(_result(config, data, strategy, seed, one, found))
        return results


def _result(
    config: dict[str, Any], data: StreamData, strategy: dict[str, Any], seed: int, one: Learner, found: Outcome
) -> Result:
    metrics = found.summary(config["metrics_as"])
    model, rule = None, None  # a learner of its own kind is its name and options
    if isinstance(one, GradientLearner):
        rule = {"name": one.rule.name, "local": one.rule.local, "config": config["rule"]["options"]}
        model = {
            "name": config["model"]["name"], "config": config["model"]["options"],
            "parameters": one.model.parameter_counts(),
        }  # fmt: skip
    return {
        "schema": 1,
        "status": "complete",
        "task": {
            "name": config["stream"]["name"], "protocol": data.protocol, "split": found.split,
            "split_hash": data.split_hash, "data_source": data.source,
        },
        "model": model,
        "rule": rule,
        "strategy": strategy,
        "seed": seed,
        "primary": {"name": "acc", "value": metrics["acc"], "higher_is_better": True},
        "metrics": metrics,
        "R": found.R.tolist(),
        "untrained": found.untrained.tolist(),
        "samples": list(found.samples),
        "scenario": found.scenario,
        "active": found.active,
        "sees_task_id": found.sees_task_id,
        "curve": [{"step": p.step, "during": p.during, "accuracies": list(p.accuracies)} for p in found.curve],
        "memory": found.memory,
        "train": {"seconds": found.train_seconds, "steps": found.steps},
        "env": {"torch": torch.__version__, "threads": torch.get_num_threads()},
    }  # fmt: skip


def make_document(config: dict[str, Any], data: StreamData, results: list[Result]) -> dict[str, Any]:
    """Rows, paired differences to naive, the part of the gap from naive to joint that each closes, and a verdict."""
    rows = []
    by_label: dict[str, list[float]] = {}
    for strategy in config["strategies"]:
        label = strategy["label"]
        own = [result for result in results if result["strategy"]["label"] == label]
        by_label[label] = [result["metrics"]["acc"] for result in own]
        row: dict[str, Any] = {
            "label": label,
            "sees_task_id": own[0]["sees_task_id"],
            "R": np.mean([result["R"] for result in own], axis=0).tolist(),
            "memory": own[0]["memory"],
            "seconds": float(np.mean([result["train"]["seconds"] for result in own])),
        }
        for key in SUMMED:
            values = [result["metrics"][key] for result in own if result["metrics"][key] is not None]
            row[key] = mean_interval(values)._asdict() if values else None
        rows.append(row)
    naive, joint = by_label.get("naive"), by_label.get("joint")
    for row in rows:
        values = by_label[row["label"]]
        apart = naive is not None and row["label"] != "naive"
        row["to_naive"] = paired_difference(values, naive)._asdict() if naive is not None and apart else None
        row["gap_closed"] = None
        if naive is not None and joint is not None and np.mean(joint) > np.mean(naive):
            gap = float(np.mean(joint) - np.mean(naive))
            row["gap_closed"] = float(np.mean(values) - np.mean(naive)) / gap
    document = {
        "schema": 1, "kind": "continual", "stream": config["stream"]["name"], "protocol": data.protocol,
        "split": config["split"], "split_hash": data.split_hash, "data_source": data.source,
        "scenario": data.scenario, "active": results[0]["active"], "tasks": len(data), "seeds": config["seeds"],
        "metrics_as": config["metrics_as"], "config": identity(config), "rows": rows, "results": results,
    }  # fmt: skip
    return document | {"verdict": verdict(rows)}


def verdict(rows: list[dict[str, Any]]) -> str:
    """The best strategy that is not the upper bound, beside both bounds, in one sentence."""
    bounds = ("naive", "joint", "cumulative")
    others = [row for row in rows if row["label"] not in bounds] or rows
    best = max(others, key=lambda row: row["acc"]["mean"])
    told = f"{best['label']} ends at {100 * best['acc']['mean']:.1f} % over all tasks"
    if best["to_naive"] is not None:
        low, high = best["to_naive"]["low"], best["to_naive"]["high"]
        sure = low is not None and (low > 0 or high < 0)
        told += f", {100 * best['to_naive']['mean']:+.1f} points to naive" + ("" if sure else " (not significant)")
    if best["gap_closed"] is not None and best["label"] not in bounds:
        told += f": {100 * best['gap_closed']:.0f} % of the gap to joint training"
    if best["sees_task_id"] and not all(row["sees_task_id"] for row in rows):
        told += ". It is told the task at test; others are not"
    return told + "."
