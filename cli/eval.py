"""``neurons eval``: a finished run's weights on one split."""

from __future__ import annotations

import importlib.util
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
    help="held_out selects; test is for the final number.  [default: held_out]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Of a text: test in windows this many symbols apart.  [default: the run's]",
)
@click.option(
    "--harness",
    metavar="A,B",
    help="Tasks of lm-evaluation-harness instead, or YAML files (pip install 'neurons[lm]').",
)
@click.option("--limit", type=click.IntRange(min=1), help="Of each harness task: the first N samples only.")
@common.as_json
@common.debug
def command(
    run: Path,
    split: Literal["test", "held_out"] | None,
    stride: int | None,
    harness: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Evaluate the weights of the run directory RUN.

    With --harness a language model answers tasks such as lambada_openai, hellaswag, piqa and winogrande. Their data
    comes from the hub, or from the folder of that name below NEURONS_DATA_DIR.

    \b
    Examples:
      neurons eval runs/digits/mlp-backprop-s0 --split held_out
      neurons eval runs/shakespeare/gpt-backprop-s0 --split test --stride 16
      neurons eval runs/stdlib/gpt-backprop-s0 --harness lambada_openai,piqa --limit 100
    """
    if stride is not None and split != "test":
        raise UsageError("--stride is about the test split. Try: --split test")
    if harness is not None:
        if split is not None:
            raise UsageError("--harness brings tasks of its own: leave out --split and --stride")
        return _harness(common.run_directory(run), harness, limit, as_json)
    if limit is not None:
        raise UsageError("--limit is about the harness's tasks. Try: --harness lambada_openai")
    split = split or "held_out"
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


def _harness(path: Path, names: str, limit: int | None, as_json: bool) -> None:
    chosen = common.comma_list(names)
    if not chosen:
        raise UsageError("--harness needs the name of a task, such as --harness lambada_openai,piqa")
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("lm-evaluation-harness is not installed. Try: pip install 'neurons[lm]'")
    from baselines.harness import harness

    document = harness(path, chosen, limit=limit)
    if as_json:
        return common.emit("harness", document)
    columns = [table.Column("task"), table.Column("metric"), table.Column("value", right=True)]
    columns += [table.Column("standard error", right=True), table.Column("samples", right=True)]
    cells = [
        [name, metric, shown.number(one["value"]), shown.number(one["standard_error"]), str(told["samples"] or "")]
        for name, told in document["tasks"].items()
        for metric, one in told["metrics"].items()
    ]
    click.echo(table.render(columns, cells, width=table.terminal_width())[0])
    if document["never_seen"]:
        common.log(f"warning: training never saw {' '.join(map(repr, document['never_seen']))}")
    return None
