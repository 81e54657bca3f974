"""``neurons train``: one run, from configuration to test result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baselines import report_format as shown
from cli import common, table
from cli.runs import flat, scan
from neurons.errors import UsageError

if TYPE_CHECKING:
    from baselines.config import Resolved


@click.command()
@click.argument("recipe", required=False)
@click.option("--model", help="Model, with options if need be: neuronsv2:width=64.  [default: the recipe's first]")
@click.option("--rule", help="Learning rule: predictive-coding:variant=zil.  [default: the recipe's first]")
@click.option("--strategy", help="naive; the others are for streams (neurons continual).  [default: naive]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of weights and data order.  [default: 0]")
@click.option("--probe", is_flag=True, help="Record how the rule settles, at every evaluation; the report plots it.")
@common.run_options
@common.dry_run
@common.as_json
@common.debug
def command(
    out: Path | None, resume: str | None, minutes: float | None, probe: bool, dry_run: bool, as_json: bool, **flags: Any
) -> None:
    """Train one model with one rule on one task.

    RECIPE is a shipped recipe (neurons list recipes) or a TOML file. A flag wins over the environment, that over a
    recipe. The test split is read once, at the end. The run directory holds config.json, metrics.jsonl, result.json and
    checkpoints; after Ctrl-C or a crash the same command with --resume auto goes on where it stopped.

    With --probe, metrics.jsonl has a row at every evaluation for the batch just learned from: cosine to backprop (all
    parameters, and each stage's), energy of each stage over settling, stationarity, lambda_max, passes, time.

    \b
    Examples:
      neurons train --task digits --model neuronsv2 --rule predictive-coding
      neurons train --task sst2 --model transformer --rule backprop --set model.width=96 --minutes 10
      neurons train --resume runs/digits/neuronsv2-predictive-coding-s0
    """
    if minutes is not None and flags["steps"] is not None:
        raise UsageError("--steps and --minutes exclude each other")
    if resume not in (None, "auto"):
        if dry_run or probe or out is not None or any(value not in (None, ()) for value in flags.values()):
            raise UsageError("--resume PATH takes everything from that run; leave out the other options")
        path = common.run_directory(Path(str(resume)))
        return _train(common.read_json(path / "config.json"), path, True, minutes, as_json)

    from baselines.config import resolve

    resolved = resolve(**flags)
    if probe:
        resolved.config["probe"] = True
    if dry_run:
        named = {f"{part}.name": "flag" for part in ("task", "model", "rule", "strategy") if flags[part] is not None}
        return _plan(resolved, named, as_json)
    if resume == "auto":
        out = out or _unfinished(resolved.config, minutes)
    if out is None:
        from baselines.experiment import default_out

        out = default_out(resolved.config)
    return _train(resolved.config, out, resume is not None, minutes, as_json)


def _train(config: dict[str, Any], out: Path, resume: bool, minutes: float | None, as_json: bool) -> None:
    from baselines.experiment import run
    from learning.distributed import rank

    result = run(config, out=out, resume=resume, progress=True, minutes=minutes)
    if rank():  # of several processes, the first tells
        return None
    if as_json:
        return common.emit("run", {"run": str(out), "result": result})
    click.echo(describe_result(result, out))
    return None


def _unfinished(config: dict[str, Any], minutes: float | None) -> Path | None:
    """The newest run of exactly ``config`` that did not finish; ``minutes`` chose its steps."""
    for found in scan(Path("runs")):
        path = Path(found.path)
        if found.status in ("interrupted", "failed") and _same(
            common.read_json(path / "config.json"), config, minutes is not None
        ):
            return path
    return None


def _same(stored: dict[str, Any], config: dict[str, Any], calibrated: bool) -> bool:
    from learning.run import identity

    if calibrated:
        steps = {"steps": stored.get("trainer", {}).get("steps")}
        config = config | {"trainer": config["trainer"] | steps}
    return identity(stored) == identity(config)


def _plan(resolved: Resolved, named: dict[str, str], as_json: bool) -> None:
    from baselines.plan import plan

    planned = plan(resolved)
    origin = named | planned["origin"]
    if as_json:
        return common.emit("plan", planned | {"origin": origin})
    columns = [table.Column("option"), table.Column("value"), table.Column("from")]
    rows = [
        [key, "none" if value is None else str(value), origin.get(key, "recipe or default")]
        for key, value in flat(planned["config"]).items()
        if key != "schema"
    ]
    width = table.terminal_width()
    click.echo(table.render(columns, rows, width=width)[0])
    stages = [[str(stage["name"]), str(tuple(stage["output_shape"]))] for stage in planned["stages"]]
    click.echo("\n" + table.render([table.Column("stage"), table.Column("output shape")], stages, width=width)[0])
    pairs = [
        ("parameters", describe_parameters(planned["parameters"])),
        ("memory", f"about {shown.size(planned['memory_bytes'])}"),
        ("steps", f"{planned['steps']:,} ({planned['steps_per_epoch']:,} an epoch)"),
    ]
    click.echo("\n" + table.block(pairs))
    return None


def describe_parameters(counts: dict[str, Any]) -> str:
    return f"{counts['total']:,} (non-embedding {counts['non_embedding']:,}, attention {counts['attention']:,})"


def _of_a_text(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What else is quoted of a text."""
    named = {"test_token_ppl": "token ppl", "test_word_ppl": "word ppl", "test_nats_per_token": "nats per token"}
    metrics = result["metrics"]
    found = [f"{shown.number(metrics[key])} {name}" for key, name in named.items() if key in metrics]
    return [("text", f"{', '.join(found)}; {result['task']['protocol'].rpartition('; test in ')[2]}")] if found else []


def describe_result(result: dict[str, Any], path: Path) -> str:
    """The readable block of one finished run: the primary metric beside its floors, cost, place."""
    primary, train, model = result["primary"], result["train"], result["model"]
    told = f"{model['name']} by {result['rule']['name']} on {result['task']['name']}, seed {result['seed']}"
    score = f"{shown.metric(primary['value'], primary['name'])} on {result['task']['split']}"
    if "held_out" in result["metrics"]:
        score += f", {shown.metric(result['metrics']['held_out'], primary['name'])} held out"
    floors = [f"{name} {shown.metric(value, primary['name'])}" for name, value in (result.get("floors") or {}).items()]
    training = [
        shown.seconds(train["seconds"]),
        f"{train['steps']:,} steps",
        shown.count(train["samples_per_second"], "samples/s"),
        f"stopped by {result['stopped_by']}",
    ]
    pairs: list[tuple[str, str]] = [
        ("trained", told),
        (shown.words(primary["name"]), score),
        *_of_a_text(result),
        ("floors", ", ".join(floors) or "none"),
        ("parameters", describe_parameters(model["parameters"])),
        ("training", ", ".join(training)),
        *(("warning", str(warning)) for warning in result.get("warnings") or []),
        ("run", str(path)),
    ]
    return table.block(pairs)
