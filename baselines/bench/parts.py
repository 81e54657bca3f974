"""The other parts against their naive forms: sparse dendrites, fast weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.bench.clock import passes
from baselines.bench.job import Job, Row, all_timed, measure
from baselines.bench.setting import PHASES, Setting
from neurons.dendrites.branches import SparseBranches
from neurons.dendrites.layer import SLOPE, DendriticLayer
from neurons.ops.fast_weights import Rule, chunked, decay_rate
from neurons.ops.fast_weights_recurrent import recurrent

SOMAS, BRANCHES, SYNAPSES, INPUTS, BATCH = 512, 32, 16, 784, 128
STEPS, KEY = 1024, 64
RULES: tuple[Rule, ...] = ("hebb", "delta")


def dendrites(setting: Setting) -> list[Job]:
    """Chavlis & Poirazi's layer: 512 somas of 32 branches of 16 synapses each, 784 inputs, a batch of 128."""
    return [Job(f"dendrites, {phase}", partial(_dendrites, setting, phase)) for phase in PHASES if phase != "decode"]


def fast_slow(setting: Setting) -> list[Job]:
    """One head of 64 over 1,024 steps."""
    return [
        Job(f"fast weights, {rule}, {phase}", partial(_fast_weights, setting, rule, phase))
        for rule in RULES
        for phase in PHASES
        if phase != "decode"
    ]


def dense_form(tree: SparseBranches) -> tuple[Tensor, Tensor, Tensor]:
    """The tree as a dense layer: weight (somas * branches, inputs), which of its entries exist, and the thresholds."""
    weight = tree.weight.detach()
    empty = weight.new_zeros(weight.shape[0], tree.inputs)
    threshold = tree.threshold.detach().t().reshape(-1)
    return empty.scatter(1, tree.index, weight), empty.scatter(1, tree.index, 1.0), threshold


def masked_dense(x: Tensor, weight: Tensor, mask: Tensor, threshold: Tensor, layer: DendriticLayer) -> Tensor:
    """What ``layer`` (sparse inputs, leaky sums) computes, by a dense matrix of which almost all is masked to zero:
    x (N, inputs), weight and mask (somas * branches, inputs), threshold (somas * branches,) -> (N, somas)."""
    potential = F.linear(x, weight * mask, threshold).unflatten(-1, (layer.somas, layer.branches))
    drive = (F.leaky_relu(potential, SLOPE) * layer.strength.t()).sum(-1)
    return F.leaky_relu(drive + layer.threshold, SLOPE)


def _dendrites(setting: Setting, phase: str, seconds: float) -> list[Row]:
    torch.manual_seed(0)
    layer = DendriticLayer(basal=INPUTS, somas=SOMAS, branches=BRANCHES, inputs="sparse", synapses=SYNAPSES)
    layer = layer.to(setting.device)
    tree = layer.basal_branches
    assert isinstance(tree, SparseBranches)
    x = torch.randn(BATCH, INPUTS).to(setting.device).requires_grad_()
    weight, mask, threshold = dense_form(tree)
    weight.requires_grad_()
    threshold.requires_grad_()
    leaves = (x, layer.strength, layer.threshold)
    calls = {
        "sparse": passes(phase, lambda: layer(x), (*leaves, tree.weight, tree.threshold)),
        "masked dense": passes(
            phase, lambda: masked_dense(x, weight, mask, threshold, layer), (*leaves, weight, threshold)
        ),
    }
    counts = {"sparse": tree.weight.numel(), "masked dense": weight.numel()}
    rows = all_timed(measure(calls, setting, seconds), "masked dense", phase=phase, batch=BATCH)
    return [row | {"weights": counts[row["name"]]} for row in rows]


def _fast_weights(setting: Setting, rule: Rule, phase: str, seconds: float) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    key, value = (torch.randn(1, 1, STEPS, KEY, generator=generator).to(setting.device) for _ in range(2))
    key, value = F.normalize(key, dim=-1).requires_grad_(), value.requires_grad_()
    options: dict[str, Any] = {
        "rate": decay_rate(0.001, 0.1).to(setting.device).view(1),
        "write": key.new_full((1,), 0.5),
        "read": key.new_ones(1),
        "rule": rule,
    }
    calls = {
        "chunked": passes(phase, lambda: chunked(key, value, **options)[0], (key, value)),
        "recurrent": passes(phase, lambda: recurrent(key, value, **options)[0], (key, value)),
    }
    return all_timed(measure(calls, setting, seconds), "recurrent", rule=rule, phase=phase, length=STEPS)
