"""``neurons report``: one self-contained HTML file from a comparison or from finished runs."""

from __future__ import annotations

from pathlib import Path

import click

from cli import common
from neurons.errors import UsageError


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True,
    help="The HTML file; overwritten.",
)  # fmt: skip
@common.as_json
@common.debug
def command(runs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Write one HTML report of a comparison, of an experiment on a stream, or of several runs.

    RUN is a folder that compare or continual wrote, or run directories to lay side by side.

    \b
    Examples:
      neurons report runs/digits/compare -o digits.html
      neurons report runs/digits/mlp-backprop-s0 runs/digits/neuronsv2-backprop-s0 -o both.html
    """
    from baselines import report_continual
    from baselines.document import gather, load_compare
    from baselines.report import write

    streams = [path for path in runs if (path / "continual.json").is_file()]
    if streams and len(runs) > 1:
        raise UsageError(f"'{streams[0]}' is a whole experiment on a stream; a report shows one of them")
    compared = [path for path in runs if (path / "compare.json").is_file()]
    if compared and len(runs) > 1:
        raise UsageError(f"'{compared[0]}' is a whole comparison; a report shows one comparison, or several runs")
    if streams:
        document = report_continual.read(runs[0])
        report_continual.write(document, output)
    else:
        document = load_compare(runs[0]) if compared else gather([common.run_directory(path) for path in runs])
        write(document, output)
    if as_json:
        return common.emit("report", {"report": str(output), "verdict": document["verdict"]})
    click.echo(f"{document['verdict']}\n{output}")
    return None
