"""From recipe, environment and flags to one resolved configuration, with the origin of every value. Imports no torch.

A recipe is TOML:

    description = "..."
    [task]                            # name and options of the task
    name = "sst2"
    [trainer]                         # options of learning.trainer.Trainer, for every run
    [models.transformer]              # options; the tables' order is the default --models
    [models.transformer.trainer]      # trainer options for this model only
    [models."neuronsv2:tiny"]         # a row of its own: the preset, and these options over the preset's
    [rules.predictive-coding]         # likewise for rules
    [compare]                         # seeds = 3; rows = ["neuronsv2 / backprop"], all that runs if no flag names parts

Later layers win: default, recipe, preset, the recipe's table of a longer name, environment, flag, ablation. A part is
named ``transformer``, with a preset of the model's, ``neuronsv2:tiny``, with options of its own,
``predictive-coding:variant=zil``, or without one component, ``neuronsv2 - attention``. A table is about every part
that its name covers: ``[models.neuronsv2]`` about ``neuronsv2:tiny`` too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from baselines.part import PARTS, Part, scalar, taken_apart
from baselines.recipe import read_recipe, recipes, tables
from learning import RULES
from neurons.errors import UsageError, nearest
from neurons.registry import Entry, describe
from tasks import TASKS

RUN_KEYS: dict[str, Any] = {
    "seed": 0, "device": "auto", "precision": "float32", "threads": None, "blind_beyond": None, "data_dir": None,
}  # fmt: skip


@dataclass(frozen=True)
class Resolved:
    """One run's configuration, complete; ``origin`` maps dotted keys to where each value came from."""

    config: dict[str, Any]
    origin: dict[str, str]
    label: str
    control: bool = False


@dataclass(frozen=True)
class Grid:
    """Every run of a comparison: models x rules x seeds, with the exact-gradient controls of settling rules."""

    runs: tuple[Resolved, ...]
    seeds: tuple[int, ...]
    recipe: str | None
    left_out: tuple[str, ...] = ()  # components that are off already, so that nothing can be taken away

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))


def trainer_entry() -> Entry:
    """The trainer's options, read from its source."""
    return describe("learning.trainer", "Trainer")


class _Layers:
    """Collects options per section, remembering where each came from."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self.origin: dict[str, str] = {}

    def section(self, section: str, entry: Entry) -> None:
        self.values[section] = entry.defaults()
        for key in self.values[section]:
            self.origin[f"{section}.{key}"] = "default"

    def put(self, section: str, entry: Entry, options: dict[str, Any], origin: str) -> None:
        for key, value in entry.validate(section, options).items():
            self.values[section][key] = value
            self.origin[f"{section}.{key}"] = origin


def _assignments(sets: Sequence[str]) -> list[tuple[str, str, Any]]:
    """``a.b=c`` as (a, b, value)."""
    found = []
    for text in sets:
        left, equals, value = text.partition("=")
        section, dot, key = left.strip().rpartition(".")
        if not equals or not dot:
            raise UsageError(f"--set takes section.option=value, such as model.width=64, not '{text}'")
        found.append((section, key, scalar(value.strip())))
    return found


def _resolve_one(
    document: dict[str, Any],
    origin: str,
    parts: dict[str, Part],
    sets: Sequence[str],
    run: dict[str, Any],
    others: Sequence[str],
    control: bool = False,
) -> Resolved:
    layers = _Layers()
    trainer = trainer_entry()
    entries = {kind: PARTS[kind].entry(part.name) for kind, part in parts.items()} | {"trainer": trainer}
    for kind, entry in entries.items():
        layers.section(kind, entry)
    layers.put("trainer", trainer, document.get("trainer", {}), origin)
    if document.get("task", {}).get("name") == parts["task"].name:
        options = {key: value for key, value in document["task"].items() if key != "name"}
        layers.put("task", entries["task"], options, origin)
    written = [(kind, *one) for kind in ("model", "rule") for one in tables(document, kind, parts[kind])]

    def recipe(general: bool) -> None:
        for kind, key, options, training in written:
            if (key.rank == 0) is general:
                layers.put(kind, entries[kind], options, origin)
                layers.put("trainer", trainer, training, origin)

    recipe(general=True)
    for kind, part in parts.items():
        if part.preset is not None:
            layers.put(kind, entries[kind], entries[kind].preset(part.preset), f"preset {part.preset}")
    recipe(general=False)
    for section, key, value in _assignments(sets):
        targets = [kind for kind in entries if section == kind or (kind in parts and section == parts[kind].name)]
        if not targets and section not in others:
            known = [*entries, *others]
            raise UsageError(f"--set: unknown section '{section}'.{nearest(section, known)} Known: {', '.join(known)}")
        for kind in targets:
            layers.put(kind, entries[kind], {key: value}, "flag")
    for kind, part in parts.items():
        layers.put(kind, entries[kind], part.options, part.origin)
        if part.ablation is not None:
            taken = entries[kind].ablation(part.ablation, layers.values[kind])
            if layers.values[kind] | taken == layers.values[kind]:
                raise UsageError(f"'{part}': {part.ablation} is off already in '{part.full}', nothing is taken away")
            layers.put(kind, entries[kind], taken, f"without {part.ablation}")
    config: dict[str, Any] = {"schema": 1}
    for kind, part in parts.items():
        config[kind] = {"name": part.name, "options": layers.values[kind]}
        layers.origin[f"{kind}.name"] = part.origin
    config["trainer"] = layers.values["trainer"]
    for key, default in RUN_KEYS.items():
        config[key], layers.origin[key] = run.get(key, (default, "default"))
    if "steps" in run:
        config["trainer"]["steps"], layers.origin["trainer.steps"] = run["steps"]
    if config["seed"] < 0 or (config["threads"] is not None and config["threads"] < 1):
        raise UsageError("a seed is at least 0, threads at least 1")
    label = f"{parts['model']} / {parts['rule']}"
    return Resolved(config, layers.origin, label, control)


def _run_flags(**flags: Any) -> dict[str, tuple[Any, str]]:
    found = {key: (value, "flag") for key, value in flags.items() if value is not None}
    if "data_dir" not in found and os.environ.get("NEURONS_DATA_DIR"):
        found["data_dir"] = (os.environ["NEURONS_DATA_DIR"], "environment")
    return found


def _document(recipe: str | None, task: str | None) -> tuple[dict[str, Any], str, str | None, str]:
    """The recipe asked for, else the one named like the task: document, origin, its name, task name."""
    if recipe is None and task is None:
        raise UsageError("name a recipe or a task. Try: neurons list tasks")
    if task is not None:
        TASKS.entry(task)
    name = recipe if recipe is not None else (task if task in recipes() else None)
    document, origin = read_recipe(name) if name is not None else ({}, "default")
    chosen = task or document.get("task", {}).get("name")
    if chosen is None:
        raise UsageError(f"recipe '{recipe}' names no task; add --task")
    return document, origin, name, chosen


def _chosen(kind: str, flag: str | None, document: dict[str, Any], origin: str, default: str) -> Part:
    """The part that the flag names, else the recipe's first one, else the default."""
    return _parts(kind, [] if flag is None else [flag], document, origin, [default])[0]


def resolve(
    *,
    recipe: str | None = None,
    task: str | None = None,
    model: str | None = None,
    rule: str | None = None,
    strategy: str | None = None,
    sets: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
    blind_beyond: int | None = None,
    data_dir: str | None = None,
) -> Resolved:
    """One run. Without ``model`` or ``rule``, the recipe's first one, else ``neuronsv2`` and ``predictive-coding``."""
    document, origin, _, chosen = _document(recipe, task)
    parts = {
        "task": Part.parse("task", chosen, "flag" if task else origin),
        "model": _chosen("model", model, document, origin, "neuronsv2"),
        "rule": _chosen("rule", rule, document, origin, "predictive-coding"),
        "strategy": _chosen("strategy", strategy, document, origin, "naive"),
    }
    run = _run_flags(
        seed=seed, device=device, precision=precision, steps=steps, threads=threads, blind_beyond=blind_beyond,
        data_dir=data_dir,
    )  # fmt: skip
    return _resolve_one(document, origin, parts, sets, run, ())


def resolve_grid(
    *,
    recipe: str | None = None,
    task: str | None = None,
    models: Sequence[str] = (),
    rules: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    sets: Sequence[str] = (),
    device: str | None = None,
    precision: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
    blind_beyond: int | None = None,
    data_dir: str | None = None,
    controls: bool = True,
    ablate: bool = False,
) -> Grid:
    """Models x rules x seeds. A settling rule brings its exact-gradient control along unless ``controls`` is off.

    ``ablate``: the first model, then it without each of its components, then the other models that ``models`` names.
    """
    document, origin, name, chosen = _document(recipe, task)
    compare = document.get("compare", {})
    rows = compare.get("rows") if not models and not rules else None
    seeds = seeds if seeds is not None else compare.get("seeds", 3)
    chosen_seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen_seeds:
        raise UsageError("--seeds takes a count of at least 1, or a list such as 0,1,2")
    model_parts = _parts("model", models, document, origin, ("neuronsv2", "transformer"))
    rule_parts = [(part, False) for part in _parts("rule", rules, document, origin, ("backprop", "predictive-coding"))]
    if controls:
        listed = [part for part, _ in rule_parts]
        for part in listed:
            written = {key: value for _, table, _ in tables(document, "rule", part) for key, value in table.items()}
            options = RULES.build(part.name, **(written | part.options)).control()
            if options is not None and (extra := replace(part, options=part.options | options)) not in listed:
                rule_parts.append((extra, True))
    labels = [f"{model} / {rule}" for model in model_parts for rule, _ in rule_parts]
    if unknown := [row for row in rows or () if row not in labels]:
        raise UsageError(f"recipe {name}: [compare] rows names '{unknown[0]}', which no model and rule of it make")
    others = [part.name for part in model_parts] + [part.name for part, _ in rule_parts]

    def one(model: Part, rule: Part, seed: int, control: bool = False) -> Resolved:
        task_part = Part.parse("task", chosen, "flag" if task else origin)
        parts = {"task": task_part, "model": model, "rule": rule, "strategy": Part("naive", origin="default")}
        flags = _run_flags(
            seed=seed, device=device, precision=precision, steps=steps, threads=threads, blind_beyond=blind_beyond,
            data_dir=data_dir,
        )  # fmt: skip
        return _resolve_one(document, origin, parts, sets, flags, others, control)

    left_out: list[str] = []
    if ablate:
        wanted = rows[0].partition(" / ")[0] if rows else None
        subject = next((part for part in model_parts if str(part) == wanted), model_parts[0])
        full = one(subject, rule_parts[0][0], chosen_seeds[0])
        without, left_out = taken_apart(subject, full.config["model"]["options"])
        model_parts = [subject, *without, *(part for part in model_parts if models and part != subject)]
    runs = []
    for model in model_parts:
        for rule, control in rule_parts:
            label = f"{model.full if ablate else model} / {rule}"
            if (rows is None or label in rows) and not (ablate and control and model.ablation):
                runs += [one(model, rule, seed, control) for seed in chosen_seeds]
    if len({(run.label, run.config["seed"]) for run in runs}) < len(runs):
        raise UsageError("a model, rule or seed is named twice: name each once")
    return Grid(tuple(runs), chosen_seeds, name, tuple(left_out))


def _parts(
    kind: str, named: Sequence[str], document: dict[str, Any], origin: str, default: Sequence[str]
) -> list[Part]:
    """What the flag names, else the recipe, else the default."""
    for names, source in ((named, "flag"), (document.get(f"{kind}s", {}), origin)):
        if names:
            return [Part.parse(kind, name, source) for name in names]
    return [Part.parse(kind, name, "default") for name in default]
