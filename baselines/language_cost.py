"""What a training step of NeuroManifold GPT costs beside a GPT of as many parameters, and what positions cost.

    python -m baselines.language_cost presets   [--names nano,shakespeare_char] [--steps 10] [--out FILE.json]
    python -m baselines.language_cost parts     [--names nano]                    every component taken away in turn
    python -m baselines.language_cost positions [--lengths 256,512] [--steps 20]

Several of the three go into one file. ``load`` is how many processes wanted a processor when it began.

A step is forward, backward and AdamW on random symbols. The contenders take one step each in turn, round after round,
so that a busy moment slows all alike, and a ratio is the median over the rounds of two steps side by side; with one
thread the processor's own time counts. An identical twin of the reference runs along: what its ratio lacks to 1 is the
measurement's error. Saved bytes are what the forward pass keeps for the backward pass, without parameters; those of the
readout (logits above all) are told apart, for they grow with the vocabulary and not with the model.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

import baselines  # noqa: F401 - extends MODELS
from baselines.bench.clock import contest
from baselines.config import Resolved
from baselines.match import match
from baselines.measure import saved_activation_bytes
from learning.environment import environment
from learning.files import json_text, write_atomic
from neurons import MODELS
from neurons.model import Model
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.task import TaskData

OURS, REFERENCE, TWIN = "neuromanifold_gpt", "gpt", "gpt (twin)"
SYMBOLS, BATCH = 65, 4
LENGTHS = {"nano": 256, "shakespeare_char": 256, "small": 1024, "medium": 1024}
POSITIONS = ("rope", "alibi", "ramanujan", "none")
Row = dict[str, Any]


def preset_costs(preset: str, *, steps: int = 10, length: int | None = None, without: bool = False) -> list[Row]:
    """Rows of ours, of the parameter-matched gpt and of its twin; ``without``: of ours minus each component, too."""
    length = length or LENGTHS[preset]
    specs = {"input": InputSpec("tokens", length, SYMBOLS), "output": OutputSpec("token", SYMBOLS)}
    entry = MODELS.entry(OURS)
    full = entry.defaults() | entry.preset(preset)
    options = {OURS: full, REFERENCE: MODELS.entry(REFERENCE).defaults() | MODELS.entry(REFERENCE).preset(preset)}
    runs = [Resolved({"model": {"name": name, "options": options[name]}}, {}, name) for name in options]
    matched, _ = match(runs, cast(TaskData, SimpleNamespace(**specs)), "params", None)
    reference = matched[1].config["model"]["options"]
    contenders = {REFERENCE: (REFERENCE, reference), TWIN: (REFERENCE, reference), OURS: (OURS, full)}
    for component in entry.ablations if without else ():
        lacking = full | entry.ablation(component, full)
        if lacking != full:
            contenders[f"{OURS} - {component}"] = (OURS, lacking)
    return _measured({label: _built(name, specs, made) for label, (name, made) in contenders.items()}, length, steps)


def position_costs(length: int, *, steps: int = 20, width: int = 128, layers: int = 4, heads: int = 4) -> list[Row]:
    """Rows of a gpt with learned positions, of its twin, and of the same gpt with each of the other positions."""
    specs = {"input": InputSpec("tokens", length, SYMBOLS), "output": OutputSpec("token", SYMBOLS)}
    made: dict[str, Any] = {"width": width, "layers": layers, "heads": heads, "dropout": 0.0}
    names = {"learned": "learned", "learned (twin)": "learned"} | {name: name for name in POSITIONS}
    models = {label: _built(REFERENCE, specs, made | {"position": name}) for label, name in names.items()}
    return _measured(models, length, steps)


def _built(name: str, specs: dict[str, Any], options: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    model: Model = MODELS.build(name, **specs, **options)
    return model.train()


def _measured(models: dict[str, Model], length: int, steps: int) -> list[Row]:
    """The first model is the reference of all ratios."""
    random = torch.Generator().manual_seed(0)
    text = torch.randint(0, SYMBOLS, (BATCH, length + 1), generator=random)
    batch = Batch(text[:, :-1], text[:, 1:])
    calls = {label: _step(model, batch) for label, model in models.items()}
    times = contest(
        calls, repeats=steps, seconds=float("inf"), device=torch.device("cpu"), threads=torch.get_num_threads()
    )
    first = next(iter(models))
    saved = {label: _saved(model, batch) for label, model in models.items()}
    rows: list[Row] = []
    for label, model in models.items():
        counts = model.parameter_counts()
        rows.append(
            {
                "model": label,
                "non_embedding": counts["non_embedding"],
                "ms": 1e3 * times[label].seconds,
                "time_ratio": 1 / times[label].faster_than(times[first]),
                "saved_bytes": saved[label]["all"],
                "saved_ratio": saved[label]["all"] / saved[first]["all"],
                "saved_bytes_without_readout": saved[label]["body"],
                "saved_ratio_without_readout": saved[label]["body"] / saved[first]["body"],
                "steps": steps,
            }
        )
    return rows


def _step(model: Model, batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        loss = model.loss(batch)
        (loss.objective / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.end_episode()

    return step


def _saved(model: Model, batch: Batch) -> dict[str, int]:
    """Bytes of a training forward pass, all and without those that the readout adds."""

    class Body(torch.nn.Module):
        def loss(self, batch: Batch) -> torch.Tensor:
            context, x = model._stateless(batch), batch.x
            for stage in model.stages[:-1]:
                x = stage(x, context)
            return x

    body = Body()
    body.model = model
    return {"all": saved_activation_bytes(model, batch), "body": saved_activation_bytes(cast(Model, body), batch)}


def table(rows: Sequence[Row]) -> str:
    head = (
        f"{'model':44s} {'params':>10s} {'ms/step':>8s} {'time':>6s} {'saved MB':>9s} {'saved':>6s} {'no logits':>9s}"
    )
    lines = [
        f"{row['model']:44s} {row['non_embedding']:10,d} {row['ms']:8.1f} {row['time_ratio']:6.3f}"
        f" {row['saved_bytes'] / 1e6:9.1f} {row['saved_ratio']:6.3f} {row['saved_ratio_without_readout']:9.3f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m baselines.language_cost", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("presets", "parts", "positions"), nargs="+")
    parser.add_argument("--names", default="nano,shakespeare_char", help="presets, with commas between")
    parser.add_argument("--lengths", default="256,512", help="of the sequences, for positions")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    found: dict[str, list[Row]] = {}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    for name in chosen.names.split(",") if set(chosen.what) - {"positions"} else ():
        found[name] = preset_costs(name, steps=chosen.steps, without="parts" in chosen.what)
    for length in map(int, chosen.lengths.split(",")) if "positions" in chosen.what else ():
        found[f"{length} tokens"] = position_costs(length, steps=chosen.steps)
    for title, rows in found.items():
        print(f"{title}\n{table(rows)}\n")
    if chosen.out is not None:
        document = {"schema": 1, "kind": "language-cost", "costs": found, "load": load, "env": environment()}
        write_atomic(chosen.out, (json_text(document, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
