"""``neurons list``: what there is, without importing any of it."""

from __future__ import annotations

import click

from cli import common, table


@click.command()
@click.argument("kind", required=False)
@common.as_json
@common.debug
def command(kind: str | None, as_json: bool) -> None:
    """List the parts of one KIND, or the kinds.

    KIND is models, rules, tasks, attentions, ... in the singular or the plural; 'recipes' lists the shipped recipes.

    \b
    Example:
      neurons list models
    """
    if kind is None:
        _print_kinds(as_json)
    elif kind in ("recipe", "recipes"):
        _print_parts("recipes", _recipes(), as_json)
    else:
        registry = common.registry(kind)
        _print_parts(registry.plural, {entry.name: entry.summary for entry in registry.entries().values()}, as_json)


def _recipes() -> dict[str, str]:
    from baselines.recipe import read_recipe, recipes

    return {name: str(read_recipe(name)[0].get("description", "")) for name in recipes()}


def _print_kinds(as_json: bool) -> None:
    from baselines.recipe import recipes

    counts = {plural: len(registry.entries()) for plural, registry in common.kinds().items()}
    counts["recipes"] = len(recipes())
    if as_json:
        return common.emit("kinds", {"kinds": [{"name": name, "count": counts[name]} for name in sorted(counts)]})
    columns = [table.Column("kind"), table.Column("parts", right=True)]
    rows = [[name, str(counts[name])] for name in sorted(counts)]
    click.echo(table.render(columns, rows, width=table.terminal_width(), header=False)[0])


def _print_parts(plural: str, parts: dict[str, str], as_json: bool) -> None:
    if as_json:
        listed = [{"name": name, "summary": summary} for name, summary in parts.items()]
        return common.emit("list", {"of": plural, "parts": listed})
    columns = [table.Column("name"), table.Column("summary")]
    if parts:
        rows = [[name, summary] for name, summary in parts.items()]
        click.echo(table.render(columns, rows, width=table.terminal_width(), header=False)[0])
