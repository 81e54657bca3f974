"""``neurons eval``: a finished run's weights on one split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from baselines import report_format as shown
from cli import common, table
from neurons.errors import UsageError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["test", "held_out"]),
    default="held_out",
    show_default=True,
    help="held_out selects; test is for the final number.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Of a text: test in windows this many symbols apart.  [default: the run's]",
)
@common.as_json
@common.debug
def command(run: Path, split: Literal["test", "held_out"], stride: int | None, as_json: bool) -> None:
    """Evaluate the weights of the run directory RUN.

    \b
    Examples:
      neurons eval runs/digits/mlp-backprop-s0 --split held_out
      neurons eval runs/shakespeare/gpt-backprop-s0 --split test --stride 16
    """
    if stride is not None and split != "test":
        raise UsageError("--stride is about the test split. Try: --split test")
    path = common.run_directory(run)
    from baselines.experiment import evaluate

    document = evaluate(path, split, stride=stride)
    if as_json:
        return common.emit("evaluation", document)
    primary = document["primary"]
    others = {name: value for name, value in document["metrics"].items() if name != primary["name"]}
    pairs = [("run", str(path)), ("split", split), ("protocol", document.get("protocol", ""))]
    pairs.append((shown.words(primary["name"]), shown.metric(primary["value"], primary["name"])))
    pairs += [(shown.words(name), shown.metric(value, name)) for name, value in others.items()]
    click.echo(table.block([(name, value) for name, value in pairs if value]))
    return None
