"""The contenders of the bench: equal work at equal shapes, and what decoding remembers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.bench import clock, contenders, network
from baselines.bench.decode import KeyValueCache, decoders, streaming, tensors
from baselines.bench.setting import Setting
from baselines.models.attention import SoftmaxAttention
from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.oscillations.gamma import GammaAttention
from neurons.specs import Context

CPU = torch.device("cpu")
SMALL = Setting(lengths=(8, 16), minutes=0.02, repeats=2)


@pytest.mark.parametrize("causal", [False, True])
def test_the_materialised_form_is_softmax_attention(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 9, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(contenders.softmax_attention(q, k, v, causal=causal), expected)


@pytest.mark.parametrize("group", ["operation", "mixer"])
def test_every_contender_runs_at_equal_shapes(group: contenders.Group) -> None:
    setting = Setting(mixers=("all",), batch=2, heads=2, width=8)
    for causal in (False, True):
        for name in contenders.names(group, setting, causal):
            one = contenders.contender(group, name, setting, 5, causal)
            assert one.forward().shape == ((2, 2, 5, 4) if group == "operation" else (2, 5, 8))
            gradients = one.call("train")()
            assert len(gradients) == len(one.leaves) >= 1
            assert one.call("forward")().grad_fn is None
            if causal:  # the last value reaches no earlier output
                value = one.leaves[0] if group == "mixer" else one.leaves[-1]
                before = one.forward().detach()
                with torch.no_grad():
                    value[..., -1, :] += 1
                assert torch.equal(one.forward()[..., :-1, :], before[..., :-1, :])


def test_training_is_the_gradient_of_the_summed_output() -> None:
    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    dx, dw = clock.passes("train", lambda: x @ w, (x, w))()
    torch.testing.assert_close(dx, w.sum(1).expand(3, 4))
    torch.testing.assert_close(dw, x.sum(0)[:, None].expand(4, 2))


def test_references_are_always_there_and_whole_spectra_only_without_a_past() -> None:
    assert contenders.names("operation", Setting(mixers=("coherence",)), True) == ["sdpa", "coherence"]
    assert contenders.names("operation", Setting(mixers=("gamma",)), True) == []
    assert contenders.names("mixer", Setting(mixers=("gamma",)), True) == ["softmax", "gamma"]
    assert "fourier" in contenders.names("operation", Setting(), False)
    every = contenders.names("mixer", Setting(mixers=("all",)), False)
    assert every == ATTENTIONS.names()
    assert set(every) - set(contenders.names("mixer", Setting(mixers=("all",)), True)) == {"fourier", "spectral"}


def test_a_matrix_that_is_too_large_is_refused() -> None:
    assert contenders.refusal("naive", Setting(), 11585) is None  # 4 n^2 bytes just below half a GiB
    assert contenders.refusal("naive", Setting(), 16384) == "its matrix takes 1 GiB, over the limit of 0.5 GiB"
    assert contenders.refusal("sdpa", Setting(), 65536) is None


# Decoding


def softmax(heads: int = 2) -> SoftmaxAttention:
    torch.manual_seed(0)
    return SoftmaxAttention(width=8, causal=True, heads=heads)


@torch.no_grad()
def test_the_cache_decodes_what_causal_attention_computes() -> None:
    mixer, x = softmax(), torch.randn(2, 12, 8)
    whole = mixer(x, Context())
    cache = KeyValueCache(mixer, x[:, :9], room=3)
    for _ in range(2):  # it can be rewound
        step = cache.rewound()
        decoded = torch.cat([step(x[:, t : t + 1]) for t in range(9, 12)], 1)
        torch.testing.assert_close(decoded, whole[:, 9:], rtol=0, atol=1e-6)


def test_the_cache_does_not_pretend_to_know_rotary_positions() -> None:
    with pytest.raises(UsageError, match="rotary"):
        KeyValueCache(SoftmaxAttention(width=8, causal=True, positions="rotary"), torch.randn(1, 3, 8), room=1)


@torch.no_grad()
def test_a_state_decodes_what_the_whole_sequence_gives() -> None:
    for name in contenders.names("mixer", Setting(mixers=("all",)), True):
        mixer, x = contenders.build_mixer(name, Setting(width=16, heads=2), True), torch.randn(2, 12, 16)
        context = Context()
        mixer(x[:, :9], context)
        if not [*tensors(context.next_state)]:
            continue
        step = streaming(mixer, context.next_state)
        decoded = torch.cat([step(x[:, t : t + 1]) for t in range(9, 12)], 1)
        torch.testing.assert_close(decoded, mixer(x, Context())[:, 9:], rtol=0, atol=2e-6)


def build_order() -> int:
    mixer = contenders.build_mixer("gamma", Setting(width=8, heads=2), True)
    assert isinstance(mixer, GammaAttention)
    return mixer.series.order


def test_decoders_tell_what_they_remember() -> None:
    setting = Setting(mixers=("linear", "softmax", "gamma"), batch=3, width=8, heads=2)
    short, long = decoders(setting, 4), decoders(setting, 40)
    assert short["softmax"].state_bytes == 2 * 4 * 3 * 4 * 8  # keys and values, float32, batch, tokens, width
    assert long["softmax"].state_bytes == 10 * short["softmax"].state_bytes
    assert short["linear"].state_bytes == long["linear"].state_bytes == 4 * 3 * 2 * (4 * 4 + 4)
    features = 2 * build_order() + 1  # a mean field in float64 per head and sample, and the position
    assert short["gamma"].state_bytes == long["gamma"].state_bytes == 8 * (3 * 2 * features * (4 + 1) + 1)
    short["linear"].run()
    short["softmax"].run()


def test_a_mixer_without_a_state_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Attention):
        is_causal = True

        def forward(self, x: Tensor, context: Context) -> Tensor:
            return x

    monkeypatch.setattr("baselines.bench.decode.build_mixer", lambda *_: Forgetful())
    found = decoders(Setting(mixers=("softmax",)), 4)["softmax"]
    assert found.refusal == "it leaves no state to go on from"


def test_tensors_of_a_state_are_found_wherever_they_are() -> None:
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    batch = network.Batch(a, b)
    assert [t.numel() for t in tensors({"x": [a, (b, 3)], "y": batch, "z": c, "n": None})] == [1, 2, 1, 2, 3]


# Suites
