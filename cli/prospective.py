"""``neurons prospective``: predictive coding against backpropagation on two tasks in turns, and the figure of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from baselines import report_format as shown
from cli import common, table
from neurons.errors import UsageError


@click.command()
@click.option("--data", default="fashion-mnist", show_default=True, help="Pictures: fashion-mnist, cifar10, digits.")
@click.option("--seeds", type=click.IntRange(min=1), default=21, show_default=True, help="How many seeds.")
@click.option("--rates", metavar="A,B", help="Learning rates, the same for both.  [default: the paper's six and .0025]")
@click.option("--gain", type=float, default=1.0, show_default=True, help="Of the initial weights, for both.")
@click.option("--images", type=click.IntRange(min=1), default=600, show_default=True, help="Of each class.")
@click.option(
    "--iterations", type=click.IntRange(min=1), default=84, show_default=True,
    help="Passes over a task's images; the task changes after every 4.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, of one thread each.")
@click.option("--data-dir", help="Folder with local data sets.  [env: NEURONS_DATA_DIR]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("runs/prospective.json"), show_default=True,
    help="The document, and beside it the figure (.svg); overwritten.",
)  # fmt: skip
@common.as_json
@common.debug
def command(
    data: str, seeds: int, rates: str | None, jobs: int, data_dir: str | None, out: Path, as_json: bool, **given: Any
) -> None:
    """Train predictive coding and backprop on two tasks in turns; draw their errors.

    Prospective configuration, figure 4 of Song et al. 2024. Two tasks of half the classes share their outputs and are
    trained in turns: every seed draws the classes, the images, their order and the first weights, the same for both
    rules. States settle for 64 steps at rate .1 before each weight step. Each rule runs at every rate and is tested at
    its own best, chosen on held-out images. Compared is the mean test error of both tasks over the whole training,
    paired over the seeds.

    \b
    Examples:
      neurons prospective --jobs 2
      neurons prospective --gain 2 --seeds 5
      neurons prospective --data digits --seeds 5 --iterations 16
    """
    from baselines.prospective import Setting, prospective
    from baselines.prospective_figure import draw
    from learning.files import json_text, write_atomic

    chosen: dict[str, Any] = {"rates": _rates(rates)} if rates is not None else {}
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work, so that it is not lost
    document = prospective(
        Setting(data=data, seeds=seeds, **chosen, **given), data_dir=data_dir, jobs=jobs,
        progress=lambda done, total: common.log(f"[{done}/{total}]"),
    )  # fmt: skip
    typed = shlex.join(["neurons", *(click.get_current_context().obj or [])])
    document |= {"command": typed}
    write_atomic(out, (json_text({"schema": 1, "kind": "prospective"} | document, indent=1) + "\n").encode())
    figure = out.with_suffix(".svg")
    draw(document, figure)
    if as_json:
        return common.emit("prospective", document)
    click.echo(prospective_text(document, table.terminal_width()))
    click.echo(f"\nresults  {out}\nfigure   {figure}")
    return None


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in common.comma_list(text))
    except ValueError:
        raise UsageError(f"--rates takes numbers such as 0.001,0.0005, not '{text}'") from None


def prospective_text(document: dict[str, Any], width: int | None) -> str:
    """Verdict, levels beside the published ones, the grid."""
    setting = document["setting"]
    columns = [
        table.Column("rule"), table.Column("best rate", right=True), table.Column("test error", right=True),
        table.Column("95 %", right=True, drop=1), table.Column("published", right=True, drop=2),
    ]  # fmt: skip
    rows = []
    for row in document["rows"]:
        error = row["error"]
        interval = "" if error["low"] is None else f"{error['low']:.3f} to {error['high']:.3f}"
        rows.append([row["rule"], f"{row['rate']:g}", f"{error['mean']:.3f}", interval, shown.number(row["published"])])
    levels, _ = table.render(columns, rows, width=width)
    tried = [
        table.Column("held-out error at rate"),
        *(table.Column(f"{rate:g}", right=True) for rate in setting["rates"]),
    ]
    cells = [
        [
            row["rule"],
            *("diverged" if value is None or value != value else f"{value:.3f}" for value in row["held_out_error"]),
        ]
        for row in document["grid"]
    ]
    grid, _ = table.render(tried, cells, width=None)
    heading = (
        f"{setting['data']}: two tasks in turns of {setting['block']}, {setting['iterations']} iterations, "
        f"{setting['images']} images a class · {setting['seeds']} seeds · gain {setting['gain']:g}"
    )
    return f"{document['verdict']}\n\n{heading}\n\n{levels}\n\n{grid}"
