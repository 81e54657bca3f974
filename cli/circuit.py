"""A model as a circuit: its stages on a small input, the parts within each, and a drawing of both."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from cli.table import clip
from neurons.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from neurons.model import Model

BATCH, LENGTH, SYMBOLS, CLASSES = 2, 16, 32, 3
MARGIN = " " * 7  # room for the stages' numbers
Part = dict[str, Any]


def circuit(name: str, options: dict[str, Any]) -> dict[str, Any]:
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
            model = MODELS.build(name, input=given, output=wanted, **options)
        except UsageError as error:
            refusals.append(str(error))
            continue
        about = f"{given.kind}, {SYMBOLS} wide or symbols"
        return {"input": about, "output": f"{wanted.kind}, {wanted.size}"} | walk(model)
    raise UsageError(refusals[0])


def walk(model: Model) -> dict[str, Any]:
    """``stages`` with shape, parameters and parts. A parameter that several share is counted where it is met first."""
    import torch

    from neurons.specs import Batch

    generator = torch.Generator().manual_seed(0)
    if model.input.kind == "tokens":
        x = torch.randint(1, SYMBOLS, (BATCH, LENGTH), generator=generator)
    else:  # in [0, 1], as phase codes want it
        x = torch.rand(BATCH, LENGTH, SYMBOLS, generator=generator)
    batch = Batch(x, torch.zeros(x.shape[:2] if model.output.kind == "token" else BATCH, dtype=torch.int64))
    shapes: dict[nn.Module, list[int]] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            shapes[module] = list(output.shape)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            context, value = model.context(batch), batch.x
            for stage in model.stages:
                value = stage(value, context)
    finally:
        for hook in hooks:
            hook.remove()
    left = {id(parameter): parameter.numel() for parameter in model.parameters()}
    stages = []
    for index, stage in enumerate(model.stages):
        part = _part(str(index), stage, shapes, left)
        stages.append({"index": index, "stage": part.pop("type"), **part})
    return {"input_shape": list(x.shape), "stages": stages, "parameters": model.parameter_counts()}


def _part(name: str, module: nn.Module, shapes: dict[nn.Module, list[int]], left: dict[int, int]) -> Part:
    """``left``: parameters that no part before this one holds; this one's are taken from it."""
    from torch import nn

    before = sum(left.values())
    # Dropout is idle outside training, and would only lengthen the drawing.
    inner = [(n, child) for n, child in module.named_children() if not isinstance(child, nn.Dropout)]
    parts = [_part(child_name, child, shapes, left) for child_name, child in inner]
    for parameter in module.parameters():
        left.pop(id(parameter), None)
    return {
        "name": name,
        "type": type(module).__name__,
        "about": describe(module),
        "shape": shapes.get(module),
        "parameters": before - sum(left.values()),
        "parts": parts,
    }


def describe(module: nn.Module) -> str:
    """What the module says of itself (``extra_repr``), else its constructor's plain options as they were given; nothing
    for torch's own, whose shape and parameters say it."""
    if type(module).__module__.startswith("torch."):
        return ""
    told = module.extra_repr()
    if told:
        return " ".join(told.split())
    quiet = {"label", "dropout", "embedding_dropout"}  # the name of a state, and what is idle here
    plain = []
    for option in inspect.signature(type(module).__init__).parameters.values():
        value = getattr(module, option.name, None)
        if option.kind is option.KEYWORD_ONLY and option.name not in quiet and isinstance(value, int | float | str):
            plain.append(f"{option.name} {value:g}" if isinstance(value, float) else f"{option.name} {value}")
    return ", ".join(plain)


def drawn(built: dict[str, Any], width: int | None) -> str:
    """The circuit from input to output; neighbouring stages that are alike are drawn once."""
    width = width or 100
    shape_at = width - 28
    lines = [_row(MARGIN, f"input ({built['input']})", built["input_shape"], None, shape_at)]
    for indices, stage in _repeated(built["stages"]):
        lines.append(MARGIN + "│")
        span = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else str(indices[0])
        times = f"{len(indices)} x " if len(indices) > 1 else ""
        count = f"{len(indices)} x {stage['parameters']:,}" if len(indices) > 1 else f"{stage['parameters']:,}"
        lines.append(_row(f"{span:>{len(MARGIN) - 2}}  ", f"{times}{stage['stage']}", stage["shape"], count, shape_at))
        lines += _about(stage, MARGIN + "│  ", width)
        lines += _inside(stage["parts"], MARGIN, width, shape_at)
    counts = built["parameters"]
    lines += [MARGIN + "│", f"{MARGIN}output ({built['output']})"]
    lines += ["", f"total {counts['total']:,}"]
    lines.append(f"non-embedding {counts['non_embedding']:,}, attention {counts['attention']:,}")
    return "\n".join(line.rstrip() for line in lines)


def _inside(parts: list[Part], indent: str, width: int, shape_at: int) -> list[str]:
    size = max((len(part["name"]) for part in parts), default=0)
    lines = []
    for part in parts:
        last = part is parts[-1]
        branch, rail = ("└─ ", "   ") if last else ("├─ ", "│  ")
        count = f"{part['parameters']:,}"
        lines.append(_row(indent + branch, f"{part['name']:<{size}}  {part['type']}", part["shape"], count, shape_at))
        lines += _about(part, indent + rail + ("│  " if part["parts"] else "   "), width)
        lines += _inside(part["parts"], indent + rail, width, shape_at)
    return lines


def _about(part: Part, indent: str, width: int) -> list[str]:
    return textwrap.wrap(part["about"], width, initial_indent=indent, subsequent_indent=indent)


def _row(indent: str, text: str, shape: list[int] | None, count: str | None, shape_at: int) -> str:
    told = "" if shape is None else "(" + ", ".join(map(str, shape)) + ")"
    return f"{clip(indent + text, shape_at - 1):<{shape_at}}{told:<14}{count or '':>14}"


def _repeated(stages: list[Part]) -> list[tuple[list[int], Part]]:
    """Runs of neighbouring stages that differ in their index only."""
    runs: list[tuple[list[int], Part]] = []
    for stage in stages:
        if runs and _alike(runs[-1][1]) == _alike(stage):
            runs[-1][0].append(stage["index"])
        else:
            runs.append(([stage["index"]], stage))
    return runs


def _alike(stage: Part) -> Part:
    return {key: value for key, value in stage.items() if key not in ("index", "name")}
