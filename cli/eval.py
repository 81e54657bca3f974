"""``neurons eval``: a finished run's weights on one split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from baselines import report_format as shown
from cli import common, table


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["test", "held_out"]),
    default="held_out",
    show_default=True,
    help="held_out selects; test is for the final number.",
)
@common.as_json
@common.debug
def command(run: Path, split: Literal["test", "held_out"], as_json: bool) -> None:
    """Evaluate the weights of the run directory RUN.

    \b
    Example:
      neurons eval runs/digits/mlp-backprop-s0 --split held_out
    """
    path = common.run_directory(run)
    from baselines.experiment import evaluate

    document = evaluate(path, split)
    if as_json:
        return common.emit("evaluation", document)
    primary = document["primary"]
    others = {name: value for name, value in document["metrics"].items() if name != primary["name"]}
    pairs = [("run", str(path)), ("split", split), (primary["name"], shown.metric(primary["value"], primary["name"]))]
    click.echo(table.block(pairs + [(name, shown.metric(value, name)) for name, value in others.items()]))
    return None
