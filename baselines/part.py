"""How a part is named in flags, recipes and rows: ``neuronsv2:tiny:width=48 - attention``. Imports no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from typing import Any

from baselines import LEARNERS, STRATEGIES
from learning import RULES
from neurons import MODELS
from neurons.errors import UsageError
from neurons.registry import Registry
from tasks import TASKS

PARTS: dict[str, Registry] = {
    "task": TASKS,
    "model": MODELS,
    "rule": RULES,
    "strategy": STRATEGIES,
    "learner": LEARNERS,
}
WITHOUT = " - "


@dataclass(frozen=True)
class Part:
    """A named part, perhaps with a preset, options beside the name, and one component taken away."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    ablation: str | None = None
    origin: str = field(default="flag", compare=False)

    @classmethod
    def parse(cls, kind: str, text: str, origin: str = "flag") -> Part:
        full, dash, ablation = text.strip().partition(WITHOUT)
        name, *pairs = full.strip().split(":")
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
        part = cls(name, entry.validate(kind, options), preset, ablation.strip() if dash else None, origin)
        if part.ablation is not None:
            entry.ablation(part.ablation, entry.defaults())
        return part

    def __str__(self) -> str:
        named = [self.name] if self.preset is None else [self.name, self.preset]
        full = ":".join([*named, *(f"{key}={value}" for key, value in self.options.items())])
        return full if self.ablation is None else f"{full}{WITHOUT}{self.ablation}"

    @property
    def full(self) -> Part:
        """This part with nothing taken away."""
        return replace(self, ablation=None)

    @property
    def rank(self) -> int:
        """How much the name says beside the part's own: 0 for ``neuronsv2``."""
        return (self.preset is not None) + len(self.options) + (self.ablation is not None)

    def covers(self, other: Part) -> bool:
        """True where all that this name says holds of ``other``: ``neuronsv2:tiny`` covers ``neuronsv2:tiny:heads=1``.

        A recipe's table is about every part that its name covers.
        """
        return (
            self.name == other.name
            and self.preset in (None, other.preset)
            and self.options.items() <= other.options.items()
            and self.ablation in (None, other.ablation)
        )


def scalar(text: str) -> Any:
    """A TOML scalar; a bare word is a string, ``none`` is None, ``True`` (as labels write it) is true."""
    if text.lower() in {"none", "null"}:
        return None
    if text in {"True", "False"}:
        return text == "True"
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def taken_apart(part: Part, options: dict[str, Any]) -> tuple[list[Part], list[str]]:
    """Model ``part`` without each of its components in turn, and the components that ``options`` have off already.

    UsageError where there is nothing to take away.
    """
    entry = MODELS.entry(part.name)
    if part.ablation is not None:
        raise UsageError(f"'{part}' lacks a component already. Try: --ablate with '{part.full}'")
    if not entry.ablations:
        having = [name for name, other in MODELS.entries().items() if other.ablations]
        raise UsageError(f"model '{part.name}' declares no components to take away. These do: {', '.join(having)}")
    off = [name for name in entry.ablations if options | entry.ablation(name, options) == options]
    if len(off) == len(entry.ablations):
        raise UsageError(f"'{part}': every component is off already, nothing is left to take away")
    return [replace(part, ablation=name) for name in entry.ablations if name not in off], off


def ablated(label: str) -> tuple[str, str | None]:
    """The label of the full model, and what a row's model lacks (None if nothing)."""
    model, slash, rule = label.partition(" / ")
    full, _, component = model.partition(WITHOUT)
    return full + slash + rule, component or None
