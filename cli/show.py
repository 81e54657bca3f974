"""``neurons show``: one part's documentation and options; a model's circuit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from baselines.part import WITHOUT, scalar
from cli import circuit as wiring
from cli import common, table
from neurons.errors import UsageError
from neurons.registry import Entry


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("--circuit", is_flag=True, help="Build the model on a small input and draw it (imports torch).")
@click.option("--set", "sets", multiple=True, metavar="A=B", help="With --circuit: a model option. Repeatable.")
@common.as_json
@common.debug
def command(kind: str, name: str, circuit: bool, sets: tuple[str, ...], as_json: bool) -> None:
    """Show one part: what it computes, its options, its source.

    \b
    Examples:
      neurons show rule predictive-coding
      neurons show model neuronsv2 --circuit --set layers=3
    """
    registry = common.registry(kind)
    entry = registry.entry(name)
    if circuit and registry.plural != "models":
        raise UsageError(f"--circuit shows models; '{name}' is a {registry.kind}. Try: neurons list models")
    if sets and not circuit:
        raise UsageError("--set changes what --circuit draws. Try: add --circuit")
    built = wiring.circuit(name, _options(sets)) if circuit else None
    if as_json:
        options = [asdict(option) for option in entry.options]
        part = {
            "of": registry.kind,
            "name": name,
            "module": entry.module,
            "class": entry.class_name,
            "line": entry.line,
        }
        extra = {} if built is None else {"circuit": built}
        told = {"doc": entry.doc, "options": options, "presets": entry.presets, "ablations": entry.ablations}
        return common.emit("show", part | told | extra)
    click.echo(_page(registry.kind, entry))
    if built is not None:
        click.echo("\n" + wiring.drawn(built, table.terminal_width()))


def _page(kind: str, entry: Entry) -> str:
    source = f"{entry.module.replace('.', '/')}.py:{entry.line} ({entry.class_name})"
    parts = [f"{kind} {entry.name}", entry.doc]
    if entry.options:
        columns = [table.Column("option"), table.Column("type"), table.Column("default")]
        rows = [[option.name, option.annotation, repr(option.default)] for option in entry.options]
        parts.append(table.render(columns, rows, width=table.terminal_width())[0])
    else:
        parts.append("no options")
    for title, joint, sets in (("preset", ":", entry.presets), ("ablation", WITHOUT, entry.ablations)):
        if sets:
            rows = [
                [f"{entry.name}{joint}{name}", ", ".join(f"{key} {value}" for key, value in options.items())]
                for name, options in sets.items()
            ]
            columns = [table.Column(title), table.Column("options")]
            parts.append(table.render(columns, rows, width=table.terminal_width())[0])
    return "\n\n".join([*parts, f"source  {source}"])


def _options(sets: tuple[str, ...]) -> dict[str, Any]:
    """``width=64`` or ``model.width=64`` as an option and its value; the registry checks both."""
    found = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes option=value, such as width=64, not '{text}'")
        found[key.strip().removeprefix("model.")] = scalar(value.strip())
    return found
