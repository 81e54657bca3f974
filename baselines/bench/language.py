"""Whole language models decoding token by token: seconds per token behind a context, and the bytes that remember it.

The models are untrained and of as many parameters as the GPT. Each goes on from its own state, as ``neurons sample``
does: keys and values, latents, or a recurrent state. A cache is joined anew with every token, not written in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from baselines.bench.decode import tensors
from baselines.bench.job import Job, Row, all_timed, measure
from baselines.bench.setting import Setting
from baselines.config import Resolved
from baselines.match import match
from neurons import MODELS
from neurons.model import Model
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.task import TaskData

REFERENCE, LATENT = "gpt", "neuromanifold_gpt, latent attention"
LENGTHS = (128, 1024, 8192)
TOKENS = 16  # decoded in one call
SYMBOLS = 256
SIZE: dict[str, Any] = {"width": 128, "layers": 4, "dropout": 0.0}
State = dict[str, Any]


def jobs(setting: Setting) -> list[Job]:
    """One sequence behind each of ``LENGTHS`` tokens."""
    return [Job(f"decoding at {length:,}", partial(_point, setting, length)) for length in LENGTHS]


def built(length: int) -> dict[str, Model]:
    """The models for ``length`` tokens by label; widths are those of the nearest number of non-embedding parameters."""
    specs = {"input": InputSpec("tokens", length, SYMBOLS), "output": OutputSpec("token", SYMBOLS)}
    nano = MODELS.entry("neuromanifold_gpt").preset("nano") | {"attention": "latent"}
    wanted = {"gpt": ("gpt", SIZE), LATENT: ("neuromanifold_gpt", nano | SIZE)}
    wanted |= {name: (name, SIZE) for name in ("neuronsv2", "resonance_net")}
    options = {label: MODELS.entry(name).defaults() | given for label, (name, given) in wanted.items()}
    models = {}
    for label, (name, _) in wanted.items():
        torch.manual_seed(0)
        # Before the matching, which builds on the meta device: constants that are made once and kept need a real one.
        MODELS.build(name, **specs, **options[label])
    runs = [
        Resolved({"model": {"name": name, "options": options[label]}}, {}, label) for label, (name, _) in wanted.items()
    ]
    for run in match(runs, cast(TaskData, SimpleNamespace(**specs)), "params", None)[0]:
        torch.manual_seed(0)
        models[run.label] = MODELS.build(run.config["model"]["name"], **specs, **run.config["model"]["options"]).eval()
    return models


@torch.no_grad()
def step(model: Model, x: Tensor, state: State) -> State:
    """What ``model`` remembers of tokens ``x`` (B, T) behind ``state``."""
    context = model.context(Batch(x, x))
    context.state = state
    model(Batch(x, x), context)
    return context.next_state


def held(state: State) -> int:
    """Bytes of a state."""
    return sum(tensor.nbytes for tensor in tensors(state))


def declared(model: Model) -> int:
    """Bytes per token that the model's latent attentions declare."""
    told = (getattr(module, "cache_bytes_per_token", None) for module in model.modules())
    return sum(one() for one in told if one is not None)


def _decode(model: Model, new: Tensor, state: State) -> State:
    for token in new.split(1, 1):
        state = step(model, token, state)
    return state


def _point(setting: Setting, length: int, seconds: float) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, SYMBOLS, (setting.batch, length + TOKENS), generator=generator).to(setting.device)
    past, new = x[:, :length], x[:, length:]
    calls: dict[str, Callable[[], State]] = {}
    told: dict[str, Row] = {}
    for label, model in built(max(LENGTHS) + TOKENS).items():
        state = step(model.to(setting.device), past, {})
        calls[label] = partial(_decode, model, new, state)
        before, after = held(state), held(calls[label]())
        told[label] = {
            "parameters": model.parameter_counts()["non_embedding"],
            "state_bytes": before,
            "bytes_per_token": (after - before) / (TOKENS * setting.batch),
            "declared_bytes_per_token": declared(model) or None,
        }
    rows = all_timed(measure(calls, setting, seconds), REFERENCE, length=length)
    for row in rows:
        row |= told[row["name"]] | {key: row[key] / TOKENS for key in ("seconds", "least_seconds")}
        row["tokens_per_second"] = setting.batch / row["seconds"]
    return rows
