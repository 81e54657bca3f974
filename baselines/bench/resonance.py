"""The resonance network against a transformer of equal width, 768 channels and 6 layers, and what both make of the
machine: multiply-adds and bytes per second beside what a matrix product and a copy reach."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.bench.clock import Call
from baselines.bench.job import Forecast, Job, Row, affordable, all_timed, measure, skipped
from baselines.bench.setting import Setting
from baselines.flops import count_macs
from baselines.stats import scaling_exponent
from neurons import MODELS
from neurons.model import Model
from neurons.specs import Batch, InputSpec, OutputSpec

NAME, REFERENCE = "resonance_net", "transformer"
LENGTHS = (512, 1024, 2048, 4096, 8192)
BATCHES = {1: LENGTHS, 8: (512, 1024, 2048)}
SYMBOLS, CLASSES = 256, 10
SIZE: dict[str, int] = {"width": 768, "layers": 6}
HEAD = 64  # channels of a transformer's head
OUTPUTS = (OutputSpec("label", CLASSES), OutputSpec("token", SYMBOLS))
SIDE = 2048  # of the matrices whose product is the ceiling; a copy of four times as many bytes is the other


def jobs(setting: Setting) -> list[Job]:
    """The ceilings, then forward passes by length: one label for the whole sequence, and the next token everywhere
    (one sample only); last the exponents of what was measured."""
    forecast, found = Forecast(), list[Row]()
    made = [Job("ceilings of the machine", partial(_ceilings, setting))]
    for length in sorted({length for lengths in BATCHES.values() for length in lengths}):
        for batch, lengths in BATCHES.items():
            for output in OUTPUTS if batch == 1 else OUTPUTS[:1]:
                if length in lengths:
                    label = f"networks, {output.kind} at {batch} x {length:,}"
                    made.append(Job(label, partial(_point, setting, forecast, found, output, batch, length)))
    return [*made, Job("networks, exponents", lambda seconds: _exponents(found))]


def networks(length: int, output: OutputSpec) -> dict[str, Model]:
    """Both, of equal width and depth, for sequences of ``length``; the resonance network is its preset ``original``."""
    specs = {"input": InputSpec("tokens", length, SYMBOLS), "output": output}
    torch.manual_seed(0)
    options = MODELS.entry(NAME).preset("original") | SIZE
    ours: Model = MODELS.build(NAME, **specs, **options)
    theirs: Model = MODELS.build(REFERENCE, **specs, **SIZE, heads=max(1, SIZE["width"] // HEAD))
    return {NAME: ours, REFERENCE: theirs}


def _point(
    setting: Setting, forecast: Forecast, found: list[Row], output: OutputSpec, batch: int, length: int, seconds: float
) -> list[Row]:
    x = torch.randint(1, SYMBOLS, (batch, length), generator=torch.Generator().manual_seed(0))
    sample = Batch(x, x if output.kind == "token" else x[:, 0] % CLASSES).to(setting.device)
    models = {name: model.to(setting.device).eval() for name, model in networks(length, output).items()}
    key = {name: (name, output.kind, batch) for name in models}
    refused = affordable({name: forecast.expected(key[name], length) for name in models}, seconds)
    calls: dict[str, Call] = {
        name: torch.no_grad()(partial(model, sample)) for name, model in models.items() if name not in refused
    }
    timings = measure(calls, setting, seconds)
    for name, timing in timings.items():
        forecast.learn(key[name], length, timing.least)
    where = {"what": "networks", "output": output.kind, "batch": batch, "length": length}
    rows = all_timed(timings, REFERENCE, **where)
    for row in rows:
        row |= rates(calls[row["name"]], row["least_seconds"])
    rows += [skipped(name, reason, REFERENCE, **where) for name, reason in refused.items()]
    counts = {name: model.parameter_counts()["non_embedding"] for name, model in models.items()}
    found += rows
    return [row | {"parameters": counts[row["name"]]} for row in rows]


def _ceilings(setting: Setting, seconds: float) -> list[Row]:
    """What torch's matrix product and a copy reach here, in the same units."""
    one = torch.randn(SIDE, SIDE, device=setting.device)
    large = torch.randn(4 * SIDE, SIDE, device=setting.device)
    out = torch.empty_like(large)
    calls: dict[str, Call] = {"matrix product": lambda: one @ one, "copy": lambda: out.copy_(large)}
    timings = measure(calls, setting, seconds)
    return [
        {"what": "ceilings", "name": name, "seconds": one.seconds, "skipped": None} | rates(calls[name], one.least)
        for name, one in timings.items()
    ]


def rates(call: Call, seconds: float) -> Row:
    """``macs`` and ``bytes`` of a call, and per second; bytes as if every operation read and wrote main memory."""
    macs, moved = count_macs(call), moved_bytes(call)
    return {"macs": macs, "bytes": moved, "flops_per_second": 2 * macs / seconds, "bytes_per_second": moved / seconds}


def moved_bytes(call: Call) -> int:
    """Bytes of all inputs and outputs of all operations of ``call()`` that make or change a tensor (views do not)."""
    counter = _Moved()
    with torch.no_grad(), counter:
        call()
    return counter.bytes


class _Moved(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [
                leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)
            ]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return out


def _exponents(found: list[Row]) -> list[Row]:
    """Of seconds over the length, one sample, for each network and output; None below five lengths."""
    rows: list[Row] = []
    for output in OUTPUTS:
        for name in (NAME, REFERENCE):
            wanted = {"name": name, "output": output.kind, "batch": 1}
            curve = [row for row in found if wanted.items() <= row.items() and not row["skipped"]]
            fit: Row = {"exponent": None, "low": None, "high": None, "skipped": None}
            if len(curve) >= 5:
                costs = [row["least_seconds"] for row in curve]
                fit["exponent"], fit["low"], fit["high"] = scaling_exponent([row["length"] for row in curve], costs)
            else:
                fit["skipped"] = f"{len(curve)} lengths, 5 make an exponent"
            rows.append({"what": "exponents", **wanted, **fit})
    return rows
