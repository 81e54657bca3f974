"""``neurons bench``: what the parts cost, as ratios within one run, and the bars that the project sets itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import click

from baselines.bench.setting import LENGTHS, MIXERS, PHASES, RIVALS, SUITES, Setting
from baselines.report_format import seconds as duration
from cli import common, table
from cli.bench_text import bench_text
from neurons.errors import RequirementError, UsageError, nearest


@click.command()
@click.argument("suites", metavar="[SUITE]...", nargs=-1)
@click.option(
    "--lengths", metavar="N,N", help=f"Sequence lengths.  [default: {LENGTHS[0]},{LENGTHS[1]},...,{LENGTHS[-1]}]"
)
@click.option("--mixers", metavar="A,B", help=f"Operations and attentions, or all.  [default: {','.join(MIXERS)}]")
@click.option("--phase", "phases", metavar="A,B", help=f"Of {','.join(PHASES)}.  [default: all]")
@click.option(
    "--suite",
    "rivals",
    metavar="NAME",
    default="attention",
    show_default=True,
    help=f"What peers compares: {' or '.join(RIVALS)}.",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Samples at a time.")
@click.option("--heads", type=click.IntRange(min=1), default=1, show_default=True, help="Heads.")
@click.option("--width", type=click.IntRange(min=2), default=64, show_default=True, help="Channels of all heads.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="Rounds at most.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=2.5,
    show_default=True,
    help="Budget of each suite; what does not fit is left out and said.",
)
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--check", is_flag=True, help="Exit 3 unless every bar of these suites is measured and met.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON document here too.")
@common.as_json
@common.debug
def command(
    suites: tuple[str, ...], lengths: str | None, mixers: str | None, phases: str | None, device: str, check: bool,
    out: Path | None, as_json: bool, **shape: Any,
) -> None:  # fmt: skip
    """Measure speed, memory and scaling against the usual forms.

    Contenders run in turn within one process, so that their ratios hold on a busy machine. Suites, of which several can
    be named and 'all' is every one (speed if none is named):

    \b
      speed         time per call of every mixer and of the operations beneath, and per decoded token
      memory        bytes kept for the backward pass, and the peak of a training call
      scaling       exponents of time and memory over the length, with 95 % intervals
      model         latency of the whole neuronsv2 and of a transformer of as many parameters
      decode        whole language models token by token: tokens per second and bytes of context
      resonance     resonance_net and a transformer of equal width, 768 x 6, with achieved FLOP and bytes
      dendrites     sparse branches against a masked dense layer, forward and backward
      fast-weights  the chunked form against the recurrence
      peers         the series against other libraries' linear-time attention (pip install 'neurons[peers]')

    \b
    Examples:
      neurons bench
      neurons bench speed --lengths 512,4096,16384 --mixers coherence,sdpa --phase train --check
      neurons bench peers --suite predictive-coding --check
      neurons bench all --minutes 4 --out bench.json
    """
    chosen = _suites(suites)
    given: dict[str, Any] = {"lengths": _lengths(lengths), "mixers": _names(mixers), "phases": _names(phases)}
    setting = Setting(device=device, **shape, **{key: value for key, value in given.items() if value is not None})
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"no folder '{out.parent}' for --out. Create it first")
    from dataclasses import replace

    from baselines.bench.suite import bench
    from learning.precision import resolve_device

    setting = replace(setting, device=str(resolve_device(setting.device)))
    if len(chosen) > 1:
        total = duration(60 * setting.minutes * len(chosen))
        common.log(f"{len(chosen)} suites, at most {total}: {', '.join(chosen)}")
    document = bench(chosen, setting, _progress)
    if out is not None:
        from learning.files import json_text, write_atomic

        write_atomic(out, (json_text({"schema": common.SCHEMA, "kind": "bench"} | document, indent=2) + "\n").encode())
    if as_json:
        common.emit("bench", document)
    else:
        click.echo(bench_text(document, table.terminal_width()))
    if check:
        _check(document["bars"])


def _suites(names: tuple[str, ...]) -> list[str]:
    """The suites by name, in the order of the table, each once."""
    known = [*SUITES, "all"]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown suite '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    if "all" in names:
        peers = _peers_installed()
        if not peers:
            common.log("peers left out: pip install 'neurons[peers]'")
        return [name for name in SUITES if peers or name != "peers"]
    return [name for name in SUITES if name in (names or ("speed",))]


def _peers_installed() -> bool:
    return importlib.util.find_spec("performer_pytorch") is not None


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(common.comma_list(text))


def _lengths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    items = common.comma_list(text)
    if not all(item.isdecimal() for item in items):
        raise UsageError(f"--lengths takes whole numbers such as 512,4096, not '{text}'")
    return tuple(sorted({int(item) for item in items}))


def _progress(done: int, total: int, label: str, left: float) -> None:
    line = f"{done + 1}/{total}  {label}  (at most {duration(left)} left)"
    if sys.stderr.isatty():
        end = "\r" if done + 1 < total else "\n"
        click.echo(f"{table.clip(line, (table.terminal_width() or 80) - 1):<79}{end}", err=True, nl=False)
    else:
        common.log(line)


def _check(bars: list[dict[str, Any]]) -> None:
    if not bars:
        raise UsageError("--check: no bar is stated for these suites at this shape. Try: neurons bench speed --check")
    for bar in bars:
        if bar["met"] is None:
            raise RequirementError(
                f"not measured: {bar['text']}. Try more --minutes, or the default lengths and mixers"
            )
        if not bar["met"]:
            raise RequirementError(f"missed: {bar['text']} (measured {bar['measured']:.3g})")
