"""What a model costs: time, memory, arithmetic, and how its attention scales."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.flops import count_macs
from baselines.stats import scaling_exponent
from learning.rule import Rule
from neurons.model import Model
from neurons.specs import Batch, Context
from neurons.spiking.energy import effective_macs, energy_joule, spike_counts


def inference(model: Model, batch: Batch, *, repeats: int = 20) -> dict[str, float]:
    """``latency_ms``: from the first sample of ``batch``, alone, to its logits; ``samples_per_second``: of whole
    batches. Medians of ``repeats`` calls."""
    one = Batch(batch.x[:1], batch.y[:1], None if batch.mask is None else batch.mask[:1])
    with _inference(model):
        alone = statistics.median(_seconds(lambda: model(one), repeats, batch.x.device))
        together = statistics.median(_seconds(lambda: model(batch), repeats, batch.x.device))
    return {"latency_ms": 1e3 * alone, "samples_per_second": len(batch) / together}


def reset_peak_memory(device: torch.device | str = "cpu") -> None:
    """Let :func:`peak_memory_bytes` start from what is held now, where the system can (CUDA, Linux)."""
    if torch.cuda.is_available() and str(device) != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset the peak resident set size


def peak_memory_bytes(device: torch.device | str = "cpu") -> int:
    """Most memory held so far: allocated on a GPU, or by this process (resident set) on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held when it forked us
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def saved_activation_bytes(model: Model, batch: Batch) -> int:
    """Bytes that one training forward pass keeps for the backward pass, each storage once, without parameters."""
    held = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with _training(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(batch)  # alive until here, so that no storage is freed and its address used again
    del loss
    return sum(saved.values())


def inference_macs(model: Model, batch: Batch) -> float:
    """Multiply-accumulates per sample of one forward pass; what counts is said in ``baselines.flops``."""
    with _inference(model):
        return count_macs(lambda: model(batch)) / len(batch)


def inference_cost(model: Model, batch: Batch) -> dict[str, float | None]:
    """Arithmetic of one forward pass per sample: dense MACs, MACs left where spikes let products be skipped, the
    accumulates (acs) that take their place, and the energy of both at 45 nm (Horowitz 2014). A model without spikes has
    no activation sparsity."""
    macs = inference_macs(model, batch)
    with _inference(model):
        spikes = spike_counts(model, batch)
    effective = effective_macs(macs, spikes)
    return {
        "inference_macs": macs,
        "macs_effective": effective,
        "acs": spikes.acs,
        "energy_joule_45nm": energy_joule(effective, spikes.acs),
        "activation_sparsity": 1 - spikes.rate if spikes.sites else None,
    }


def training_macs(rule: Rule, model: Model, batch: Batch) -> float:
    """Multiply-accumulates of one whole ``rule.step`` on ``batch``: forward, settling, gradients.

    Leaves no gradient behind and the random state as it was. The rule must be prepared.
    """
    with _training(model):
        try:
            return count_macs(lambda: rule.step(model, batch, update=lambda report: None))
        finally:
            model.zero_grad(set_to_none=True)


def attention_scaling(
    attention: nn.Module,
    *,
    width: int,
    lengths: Sequence[int] = (512, 1024, 2048, 4096, 8192),
    budget: float = 5.0,
    repeats: int = 5,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Forward ``seconds`` of ``attention`` (a mixer, or a whole stage) on noise (1, n, width) at each of ``lengths``,
    and b of seconds = a n^b as ``exponent`` with ``low`` and ``high``.

    Seconds are the processor's on a CPU, so that a busy machine does not bend the curve, and the wall's on a GPU; the
    least of up to ``repeats`` runs counts, since other work only adds. Lengths after the third are left out once
    ``budget`` seconds could not hold the next one, should it cost the square of its length.
    """
    device, spent = torch.device(device), 0.0
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    done: list[int] = []
    seconds: list[float] = []
    with _inference(attention):
        for length in sorted(lengths):
            expected = seconds[-1] * (length / done[-1]) ** 2 if done else 0.0
            if len(done) >= 3 and spent + 2 * expected > budget:
                break
            x = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0)).to(device)
            affordable = repeats if not expected else int(budget / len(lengths) / expected)
            runs = _seconds(lambda x=x: attention(x, Context()), max(1, min(repeats, affordable)), device, clock)  # type: ignore[misc]
            spent += sum(runs)
            done.append(length)
            seconds.append(min(runs))
    exponent, low, high = scaling_exponent(done, seconds)
    return {"lengths": done, "seconds": seconds, "exponent": exponent, "low": low, "high": high}


def _seconds(
    call: Callable[[], Any], repeats: int, device: torch.device, clock: Callable[[], float] | None = None
) -> list[float]:
    """Seconds by ``clock`` (the wall's) of each of ``repeats`` calls, after one that warms up and is not counted."""
    clock = clock or time.perf_counter
    runs = []
    call()
    for _ in range(repeats):
        _synchronise(device)
        start = clock()
        call()
        _synchronise(device)
        runs.append(clock() - start)
    return runs


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradient, no garbage collection; the mode is given back."""
    with _mode(model, training=False), torch.no_grad():
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode and random numbers of its own; both are given back."""
    with _mode(model, training=True), torch.random.fork_rng():
        yield


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
