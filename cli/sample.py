"""``neurons sample``: text from a language model that was trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from baselines import report_format as shown
from cli import common
from neurons.errors import UsageError

FILE = "FILE:"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--start", default="\n", help="Text to go on from, or FILE:PATH.  [default: an empty line]")
@click.option("--number", type=click.IntRange(min=1), default=1, show_default=True, help="Number of samples.")
@click.option("--length", type=click.IntRange(min=1), default=400, show_default=True, help="Symbols per sample.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="Below 1 safer, 0: the likeliest.")
@click.option("--top-k", type=int, help="Draw from the K likeliest symbols only.")
@click.option("--top-p", type=float, help="Draw from the fewest symbols that hold P of the probability.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same text.")
@click.option("--stop", help="End a sample before this text.")
@common.as_json
@common.debug
def command(
    run: Path,
    start: str,
    number: int,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: str | None,
    as_json: bool,
) -> None:
    """Write text with the language model of the run directory RUN.

    Text comes symbol by symbol, the start before it. A model that streams goes on from its state or its cache; another
    one reads its last symbols anew. On stderr: distinct-1 to -3 (of words), and the perplexity of the samples under the
    model itself.

    \b
    Examples:
      neurons sample runs/stdlib/transformer-backprop-s0 --start "def " --length 300
      neurons sample runs/shakespeare/gpt-backprop-s0 --start FILE:prompt.txt --number 3 --top-p 0.9
    """
    path = common.run_directory(run)
    text = _start(start)
    if stop == "":
        raise UsageError("--stop needs a text; leave it out to stop at --length alone")
    from baselines.experiment import load_run
    from baselines.sampling import Choice, sample, summary, text_data

    choice = Choice(temperature, top_k, top_p)

    made = load_run(path)
    codec = text_data(made, path).codec
    ids = [int(i) for i in codec.prompt(text)]

    def told(piece: str) -> None:
        if not as_json:
            click.echo(piece, nl=False)

    stops = () if stop is None else (stop,)
    samples = []
    for one in range(number):
        told(("\n\n---\n" if one else "") + text)
        samples.append(
            sample(made.model, codec, ids, length=length, choice=choice, seed=seed, number=one, stops=stops, out=told)
        )
    told("\n")
    found = summary(samples)
    if as_json:
        return common.emit(
            "samples",
            {"run": str(path), "start": text, "unit": codec.unit, "seed": seed, "stop": stop}
            | {"choice": asdict(choice), "samples": [asdict(one) for one in samples]}
            | found,
        )
    common.log(_summary(found, codec.unit, all(one.streamed for one in samples)))
    return None


def _start(start: str) -> str:
    """The text to go on from; UsageError in one line where there is none."""
    text = start
    if start.startswith(FILE):
        path = Path(start.removeprefix(FILE)).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"--start: cannot read '{path}': {told}") from error
    if any("\ud800" <= character <= "\udfff" for character in text):  # what an argument held that is no text
        raise UsageError("--start is not UTF-8: pass text, or FILE:PATH of a UTF-8 file")
    if not text:
        raise UsageError("--start is empty: a model goes on from at least one symbol. Leave it out for an empty line")
    return text


def _summary(found: dict[str, Any], unit: str, streamed: bool) -> str:
    several = ", ".join(f"distinct-{n} {shown.number(found[f'distinct_{n}'])}" for n in (1, 2, 3))
    how = "from its state" if streamed else "reading its last symbols anew"
    return (
        f"{several}; perplexity {shown.number(found['perplexity'])} per {unit} under the model itself; "
        f"{shown.count(found['symbols_per_second'], f'{unit}s/s')}, {how}"
    )
