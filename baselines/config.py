"""From recipe, environment and flags to one resolved configuration, with the origin of every value. Imports no torch.

A recipe is TOML:

    description = "..."
    [task]                            # name and options of the task
    name = "sst2"
    [trainer]                         # options of learning.trainer.Trainer, for every run
    [models.transformer]              # options; the tables' order is the default --models
    [models.transformer.trainer]      # trainer options for this model only
    [rules.predictive-coding]         # likewise for rules
    [compare]                         # seeds = 3; rows = ["neuronsv2 / backprop"], all that runs if no flag names parts

Later layers win: default, recipe, preset, environment, flag. A part is named ``transformer``, with a preset of the
model's, ``neuronsv2:tiny``, or with options of its own, ``predictive-coding:variant=zil``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from baselines import STRATEGIES
from baselines.recipe import read_recipe, recipes
from learning import RULES
from neurons import MODELS
from neurons.errors import UsageError, nearest
from neurons.registry import Entry, Registry, describe
from tasks import TASKS

PARTS: dict[str, Registry] = {"task": TASKS, "model": MODELS, "rule": RULES, "strategy": STRATEGIES}
RUN_KEYS: dict[str, Any] = {"seed": 0, "device": "auto", "precision": "float32", "threads": None, "data_dir": None}


@dataclass(frozen=True)
class Part:
    """A named part, perhaps with a preset and options beside the name: ``neuronsv2:tiny:width=48``."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    origin: str = field(default="flag", compare=False)

    @classmethod
    def parse(cls, kind: str, text: str, origin: str = "flag") -> Part:
        name, *pairs = text.strip().split(":")
        entry = PARTS[kind].entry(name)
        options, preset = {}, None
        if pairs and "=" not in pairs[0] and entry.presets:
            preset = pairs.pop(0)
            entry.preset(preset)
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"'{text}': an option is written key=value, not '{pair}'")
            options[key] = scalar(value)
        return cls(name, entry.validate(kind, options), preset, origin)

    def __str__(self) -> str:
        named = [self.name] if self.preset is None else [self.name, self.preset]
        return ":".join([*named, *(f"{key}={value}" for key, value in self.options.items())])


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

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))


def scalar(text: str) -> Any:
    """A TOML scalar; a bare word is a string, ``none`` is None."""
    if text.lower() in {"none", "null"}:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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


def _split(table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {key: value for key, value in table.items() if key != "trainer"}, table.get("trainer", {})


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
    for kind, table in (("model", "models"), ("rule", "rules")):
        options, training = _split(document.get(table, {}).get(parts[kind].name, {}))
        layers.put(kind, entries[kind], options, origin)
        layers.put("trainer", trainer, training, origin)
    for kind, part in parts.items():
        if part.preset is not None:
            layers.put(kind, entries[kind], entries[kind].preset(part.preset), f"preset {part.preset}")
    for section, key, value in _assignments(sets):
        targets = [kind for kind in entries if section == kind or (kind in parts and section == parts[kind].name)]
        if not targets and section not in others:
            known = [*entries, *others]
            raise UsageError(f"--set: unknown section '{section}'.{nearest(section, known)} Known: {', '.join(known)}")
        for kind in targets:
            layers.put(kind, entries[kind], {key: value}, "flag")
    for kind, part in parts.items():
        layers.put(kind, entries[kind], part.options, "flag")
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
    if flag is not None:
        return Part.parse(kind, flag)
    written = list(document.get(f"{kind}s", {}))
    return Part.parse(kind, written[0], origin) if written else Part(default, origin="default")


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
    run = _run_flags(seed=seed, device=device, precision=precision, steps=steps, threads=threads, data_dir=data_dir)
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
    data_dir: str | None = None,
    controls: bool = True,
) -> Grid:
    """Models x rules x seeds. A settling rule brings its exact-gradient control along unless ``controls`` is off."""
    document, origin, name, chosen = _document(recipe, task)
    compare = document.get("compare", {})
    rows = compare.get("rows") if not models and not rules else None
    seeds = seeds if seeds is not None else compare.get("seeds", 3)
    chosen_seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen_seeds:
        raise UsageError("--seeds takes a count of at least 1, or a list such as 0,1,2")
    model_parts = [Part.parse("model", m) for m in models or document.get("models", {}) or ("neuronsv2", "transformer")]
    rule_parts = [
        (Part.parse("rule", r), False) for r in rules or document.get("rules", {}) or ("backprop", "predictive-coding")
    ]
    if controls:
        listed = [part for part, _ in rule_parts]
        for part in listed:
            written = _split(document.get("rules", {}).get(part.name, {}))[0]
            options = RULES.build(part.name, **(written | part.options)).control()
            if options is not None and (extra := Part(part.name, part.options | options, part.preset)) not in listed:
                rule_parts.append((extra, True))
    others = [part.name for part in model_parts] + [part.name for part, _ in rule_parts]
    runs = []
    for model in model_parts:
        for rule, control in rule_parts:
            for seed in chosen_seeds:
                parts = {
                    "task": Part.parse("task", chosen),
                    "model": model,
                    "rule": rule,
                    "strategy": Part("naive", origin="default"),
                }
                flags = _run_flags(
                    seed=seed, device=device, precision=precision, steps=steps, threads=threads, data_dir=data_dir
                )
                runs.append(_resolve_one(document, origin, parts, sets, flags, others, control))
    if rows is not None:
        unknown = [row for row in rows if row not in {run.label for run in runs}]
        if unknown:
            raise UsageError(f"recipe {name}: [compare] rows names '{unknown[0]}', which no model and rule of it make")
        runs = [run for run in runs if run.label in rows]
    if len({(run.label, run.config["seed"]) for run in runs}) < len(runs):
        raise UsageError("a model, rule or seed is named twice: name each once")
    return Grid(tuple(runs), chosen_seeds, name)
