"""Costs against counts by hand, and clocks that we wind ourselves: no test looks at the real time."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from baselines import measure
from baselines.flops import count_macs
from baselines.models.attention import SoftmaxAttention
from baselines.models.mlp import MLP
from baselines.models.transformer import Transformer
from learning import RULES
from learning.rule import Rule, StepReport
from neurons.dendrites.layer import DendriticLayer
from neurons.specs import Batch, Context, InputSpec, OutputSpec

COUNT, STEPS, FEATURES, WIDTH, CLASSES = 3, 4, 5, 8, 2
BATCH = Batch(torch.randn(COUNT, STEPS, FEATURES), torch.tensor([0, 1, 1]))


def mlp(**options: object) -> MLP:
    sizes = {"input": InputSpec("features", STEPS, FEATURES), "output": OutputSpec("label", CLASSES)}
    return MLP(**{**sizes, "width": WIDTH, "layers": 2, "dropout": 0.0, **options})  # type: ignore[arg-type]


class Backward(Rule):
    """Backpropagation in one line, with a dropout draw and an update to be told about."""

    name = "backward"

    def step(self, model, batch, *, loss=None, update=None):  # type: ignore[no-untyped-def]
        result = model.loss(batch)
        result.objective.backward()
        update(StepReport(result))
        return StepReport(result)


# MACs


def test_linear_layer() -> None:
    layer, x = nn.Linear(7, 11), torch.randn(5, 3, 7)
    assert count_macs(lambda: layer(x)) == 5 * 3 * 7 * 11


def test_inference_mode_counts_as_well() -> None:
    layer, x = nn.Linear(7, 11), torch.randn(5, 3, 7)
    with torch.inference_mode():
        assert count_macs(lambda: layer(x)) == 5 * 3 * 7 * 11


def test_gradients_of_local_energies_are_counted() -> None:
    """torch.autograd.grad with respect to chosen inputs, inside modules: what a settling rule does."""
    first, second = nn.Linear(4, 6), nn.Linear(6, 3)
    model, x = nn.Sequential(first, second), torch.randn(2, 4)

    def settle() -> None:
        hidden = first(x).detach().requires_grad_()
        torch.autograd.grad(model[1](hidden).square().sum(), [hidden, *second.parameters()])

    assert count_macs(settle) == 2 * (4 * 6 + 3 * 6 * 3)


def test_agrees_with_torchs_own_counter_on_a_whole_training_step() -> None:
    model = Transformer(
        input=InputSpec("features", STEPS, FEATURES), output=OutputSpec(), width=8, heads=2, dropout=0.0
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(BATCH).objective.backward()
    with sdpa_kernel(SDPBackend.MATH):
        ours = count_macs(lambda: model.loss(BATCH).objective.backward())
    assert ours == counter.get_total_flops() / 2


def test_predictive_coding_costs_more_than_backpropagation() -> None:
    model = mlp()
    macs = {}
    for name in ("backprop", "predictive-coding"):
        rule = RULES.build(name)
        rule.prepare(model)
        macs[name] = measure.training_macs(rule, model, BATCH)
    assert macs["predictive-coding"] > 2 * macs["backprop"]


def test_convolution() -> None:
    layer, x = nn.Conv1d(2, 6, 3, padding=1), torch.randn(4, 2, 10)
    assert count_macs(lambda: layer(x)) == 4 * 10 * 2 * 6 * 3


def test_fused_attention_counts_its_two_products_and_five_backward() -> None:
    q = torch.randn(2, 3, 16, 4, requires_grad=True)
    product = 2 * 3 * 16 * 16 * 4
    assert count_macs(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * product
    # Backward: the scores again, and the gradients of weights, value, query and key.
    assert count_macs(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()) == (2 + 5) * product


def test_softmax_attention_module() -> None:
    layer, x = SoftmaxAttention(width=8, causal=True, heads=2), torch.randn(2, 16, 8)
    assert count_macs(lambda: layer(x, Context())) == 2 * 16 * 8 * (3 * 8 + 8) + 2 * (2 * 16 * 16 * 8)


def test_weighted_embedding_bag_counts_an_entry_as_one() -> None:
    index = torch.randint(0, 10, (6, 3))
    rows, weight = torch.randn(10, 4, requires_grad=True), torch.randn(6, 3, requires_grad=True)

    def forward() -> Tensor:
        return F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")

    assert count_macs(forward) == 6 * 3 * 4
    frozen, fixed = rows.detach(), weight.detach()  # another operator in torch, where nothing asks for a gradient
    with torch.no_grad():
        assert count_macs(lambda: F.embedding_bag(index, frozen, per_sample_weights=fixed, mode="sum")) == 6 * 3 * 4
        assert count_macs(lambda: F.embedding_bag(index, frozen, mode="sum")) == 0
    assert count_macs(lambda: forward().sum().backward()) == 3 * 6 * 3 * 4


def test_fourier_transforms_count_five_n_log_n() -> None:
    """FFTW's convention: 5 N log2 N operations for a complex transform of N points, half for a real one."""
    n = 64
    complex_macs, real = 2 * 5 * n * math.log2(n) / 2, torch.randn(2, n)
    assert count_macs(lambda: torch.fft.fft(torch.complex(real, real))) == complex_macs
    assert count_macs(lambda: torch.fft.rfft(real)) == complex_macs / 2
    assert count_macs(lambda: torch.fft.irfft(torch.fft.rfft(real), n=n)) == complex_macs
    plane = torch.complex(torch.randn(3, 8, 4), torch.randn(3, 8, 4))
    assert count_macs(lambda: torch.fft.fft2(plane)) == 3 * 5 * 32 * 5 / 2


def test_inference_macs_are_per_sample() -> None:
    by_hand = STEPS * FEATURES * WIDTH + WIDTH * WIDTH + WIDTH * CLASSES
    assert measure.inference_macs(mlp(), BATCH) == by_hand


def test_training_macs_count_the_whole_step() -> None:
    """Backward costs each layer two products, but the first needs no gradient of its input."""
    first, rest = STEPS * FEATURES * WIDTH, WIDTH * WIDTH + WIDTH * CLASSES
    assert measure.training_macs(Backward(), mlp(), BATCH) == COUNT * (2 * first + 3 * rest)


def test_training_macs_leave_no_trace() -> None:
    model = mlp(dropout=0.5).eval()
    model.stages[1].train()
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measure.training_macs(Backward(), model, BATCH)
    measure.saved_activation_bytes(model, BATCH)
    measure.inference_macs(model, BATCH)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# Memory


def test_saved_activations_by_hand() -> None:
    """Input; each GELU's input and output, the last of which the readout keeps too; log-probabilities and labels."""
    numbers = STEPS * FEATURES + 2 * (WIDTH + WIDTH) + CLASSES
    summed_weight = 4  # cross-entropy keeps the number of samples it summed over, one float
    assert measure.saved_activation_bytes(mlp(), BATCH) == COUNT * (4 * numbers + 8) + summed_weight


def test_saved_activations_count_a_storage_once_and_no_parameter() -> None:
    """Widening a layer that only the parameters see changes nothing; doubling the batch doubles what is per sample."""
    doubled = Batch(BATCH.x.repeat(2, 1, 1), BATCH.y.repeat(2))
    once, twice = (measure.saved_activation_bytes(mlp(), batch) for batch in (BATCH, doubled))
    assert twice - 4 == 2 * (once - 4)


def test_dropout_saves_its_mask_in_training_whatever_the_mode_was() -> None:
    plain, dropped = (measure.saved_activation_bytes(mlp(dropout=p).eval(), BATCH) for p in (0.0, 0.5))
    assert dropped > plain


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to know the memory held now")
def test_peak_memory_grows_by_what_is_touched_beyond_it() -> None:
    before, extra = measure.peak_memory_bytes(), 64 * 2**20
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    block = torch.ones((before - held + extra) // 4)
    grown = measure.peak_memory_bytes() - before
    del block
    assert 0.8 * extra < grown < 1.5 * extra
    assert measure.peak_memory_bytes() > before + 0.8 * extra  # a peak stays when the memory is given back


# Time


class Clock:
    """A clock that stands still unless someone works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for name in ("perf_counter", "process_time"):
            monkeypatch.setattr(measure.time, name, lambda: self.now)


class Mixer(nn.Module):
    def __init__(self, clock: Clock, exponent: float, unit: float = 1e-9) -> None:
        super().__init__()
        self.clock, self.exponent, self.unit = clock, exponent, unit
        self.lengths: list[int] = []

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.lengths.append(x.shape[1])
        self.clock.now += self.unit * x.shape[1] ** self.exponent
        return x


def test_inference_reports_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model = Clock(monkeypatch), mlp()
    costs = iter([9.0, 0.002, 50.0, 0.004, 9.0, 0.5, 0.3, 70.0])  # each first call warms up
    sizes = []

    def work(module: nn.Module, arguments: tuple[Batch, ...]) -> None:
        sizes.append(len(arguments[0]))
        clock.now += next(costs)

    model.register_forward_pre_hook(work)
    result = measure.inference(model, BATCH, repeats=3)
    assert result == {"latency_ms": pytest.approx(4.0), "samples_per_second": pytest.approx(COUNT / 0.5)}
    assert sizes == [1] * 4 + [COUNT] * 4


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_attention_scaling_finds_the_exponent(monkeypatch: pytest.MonkeyPatch, exponent: float) -> None:
    mixer = Mixer(Clock(monkeypatch), exponent)
    found = measure.attention_scaling(mixer, width=2, lengths=(64, 16, 128, 32))
    assert found["lengths"] == [16, 32, 64, 128]
    assert found["seconds"] == pytest.approx([1e-9 * n**exponent for n in (16, 32, 64, 128)])
    assert (found["exponent"], found["low"], found["high"]) == pytest.approx((exponent,) * 3, abs=1e-4)
    assert mixer.training


def test_attention_scaling_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second at 16, four at 32, sixteen at 64, which is the third; 128 would not fit."""
    mixer = Mixer(Clock(monkeypatch), 2.0, unit=1 / 256)
    found = measure.attention_scaling(mixer, width=2, lengths=(16, 32, 64, 128, 256), budget=5.0)
    assert found["lengths"] == [16, 32, 64]
    assert mixer.lengths.count(64) == 2  # a warm-up and one run


def test_attention_scaling_takes_a_real_mixer() -> None:
    model = Transformer(input=InputSpec(), output=OutputSpec(), width=8, heads=2)
    found = measure.attention_scaling(model.stages[1], width=8, lengths=(8, 16, 32), budget=0.1)
    assert len(found["seconds"]) == len(found["lengths"]) == 3


def test_products_in_place_and_triangular_solves_count():
    a, b, c = torch.zeros(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    assert count_macs(lambda: a.baddbmm_(b, c)) == 2 * 3 * 4 * 5
    assert count_macs(lambda: torch.zeros(3, 5).addmm_(b[0], c[0])) == 3 * 4 * 5
    triangle = torch.eye(4).repeat(2, 1, 1)
    assert count_macs(lambda: torch.linalg.solve_triangular(triangle, c, upper=False)) == 2 * 4 * 4 * 5 / 2


def test_a_dendritic_layer_costs_three_products_and_one_recomputed():
    """Forward u = x w; backward u again, dx and dw. Backward, the threshold is the synapse of a constant."""
    tokens, inputs, somas, branches = 600, 64, 128, 4
    layer = DendriticLayer(basal=inputs, somas=somas, branches=branches)
    x = torch.randn(tokens, inputs, requires_grad=True)
    product, thresholds = tokens * inputs * somas, tokens * branches * somas
    assert count_macs(lambda: layer(x).sum().backward()) == 4 * product + 2 * thresholds
