"""``neurons show``: one part's documentation and options; a model's circuit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from cli import common, table
from neurons.errors import UsageError
from neurons.registry import Entry

BATCH, LENGTH, SYMBOLS, CLASSES = 2, 16, 32, 3


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("--circuit", is_flag=True, help="Build the model on a small input; print its stages (imports torch).")
@common.as_json
@common.debug
def command(kind: str, name: str, circuit: bool, as_json: bool) -> None:
    """Show one part: what it computes, its options, its source.

    \b
    Examples:
      neurons show rule predictive-coding
      neurons show model neuronsv2 --circuit
    """
    registry = common.registry(kind)
    entry = registry.entry(name)
    if circuit and registry.plural != "models":
        raise UsageError(f"--circuit shows models; '{name}' is a {registry.kind}. Try: neurons list models")
    built = _circuit(name) if circuit else None
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
        return common.emit("show", part | {"doc": entry.doc, "options": options} | extra)
    click.echo(_page(registry.kind, entry))
    if built is not None:
        click.echo("\n" + _drawn(built))


def _page(kind: str, entry: Entry) -> str:
    source = f"{entry.module.replace('.', '/')}.py:{entry.line} ({entry.class_name})"
    parts = [f"{kind} {entry.name}", entry.doc]
    if entry.options:
        columns = [table.Column("option"), table.Column("type"), table.Column("default")]
        rows = [[option.name, option.annotation, repr(option.default)] for option in entry.options]
        parts.append(table.render(columns, rows, width=table.terminal_width())[0])
    else:
        parts.append("no options")
    return "\n\n".join([*parts, f"source  {source}"])


def _circuit(name: str) -> dict[str, Any]:
    """Stages of model ``name`` on a small input of the first kind that it takes."""
    from neurons import MODELS
    from neurons.specs import InputSpec, OutputSpec

    specs = [
        (InputSpec("tokens", LENGTH, SYMBOLS), OutputSpec("label", CLASSES)),
        (InputSpec("features", LENGTH, SYMBOLS), OutputSpec("label", CLASSES)),
        (InputSpec("tokens", LENGTH, SYMBOLS), OutputSpec("token", SYMBOLS)),
    ]
    refusals = []
    for given, wanted in specs:
        try:
            model = MODELS.build(name, input=given, output=wanted)
        except UsageError as error:
            refusals.append(str(error))
            continue
        return {"input": f"{given.kind}, {SYMBOLS} wide or symbols", "output": f"{wanted.kind}, {wanted.size}"} | _walk(
            model
        )
    raise UsageError(refusals[0])


def _walk(model: Any) -> dict[str, Any]:
    import torch

    from neurons.specs import Batch

    generator = torch.Generator().manual_seed(0)
    if model.input.kind == "tokens":
        x = torch.randint(1, SYMBOLS, (BATCH, LENGTH), generator=generator)
    else:
        x = torch.randn(BATCH, LENGTH, SYMBOLS, generator=generator)
    batch = Batch(x, torch.zeros(x.shape[:2] if model.output.kind == "token" else BATCH, dtype=torch.int64))
    seen: set[int] = set()
    stages = []
    model.eval()
    with torch.no_grad():
        context, value = model.context(batch), batch.x
        for index, stage in enumerate(model.stages):
            value = stage(value, context)
            own = {id(p): p.numel() for p in stage.parameters() if id(p) not in seen}
            seen |= own.keys()
            shape = list(value.shape)
            stages.append(
                {"index": index, "stage": type(stage).__name__, "shape": shape, "parameters": sum(own.values())}
            )
    return {"input_shape": list(x.shape), "stages": stages, "parameters": model.parameter_counts()}


def _drawn(built: dict[str, Any]) -> str:
    columns = [
        table.Column(""),
        table.Column("stage"),
        table.Column("output shape"),
        table.Column("parameters", right=True),
    ]
    rows = [["", f"input ({built['input']})", _shape(built["input_shape"]), ""]]
    rows += [
        [str(stage["index"]), stage["stage"], _shape(stage["shape"]), f"{stage['parameters']:,}"]
        for stage in built["stages"]
    ]
    counts = built["parameters"]
    rows.append(["", "total", "", f"{counts['total']:,}"])
    note = f"non-embedding {counts['non_embedding']:,}, attention {counts['attention']:,}"
    width = table.terminal_width()
    return table.render(columns, rows, width=width)[0] + f"\n{note}"


def _shape(sizes: list[int]) -> str:
    return "(" + ", ".join(map(str, sizes)) + ")"
