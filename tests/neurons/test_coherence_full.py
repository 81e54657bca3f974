"""The full form of coherence attention, however groups of rows and segments of tokens fall, against the double sum."""

from __future__ import annotations

import math

import pytest
import torch
from test_coherence import assert_close
from test_coherence_split import blurred, definition, disc, double, gradients, sample

from neurons.ops import coherence_full, coherence_op, coherence_scan
from neurons.ops.coherence import coherence_attention, plan_of, point_attention
from neurons.ops.coherence_full import powers
from neurons.ops.coherence_scan import Call
from neurons.ops.cosine_series import cosine_series

# UNIT: one row a group and many segments of it; several rows a group
CUTS = pytest.mark.parametrize(("unit", "joined"), [(1, 1), (1, 4), (600, 1), (600, 4)])


@pytest.fixture
def _cut(monkeypatch: pytest.MonkeyPatch, unit: int, joined: int) -> None:
    monkeypatch.setattr(coherence_scan, "CHUNK", 8)
    monkeypatch.setattr(coherence_scan, "UNIT", unit)
    monkeypatch.setattr(coherence_full, "JOINED", joined)


@CUTS
@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_groups_and_segments_do_not_show(masked: bool, split: bool) -> None:
    phase, query, value, cotangent = sample(150, batch=8)
    z, q, series = disc(phase, 1), disc(query, 2), cosine_series("von_mises", 4.0)
    mask = torch.rand(8, 150, generator=torch.Generator().manual_seed(1)) > 0.2 if masked else None

    def fast(z: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return point_attention(z, v, series, query=q if split else None, unit=False, mask=mask)

    def slow(z: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return blurred("von_mises", z, q if split else z, v, mask, {})

    if split:
        got, wanted = gradients(fast, cotangent, z, q, value), gradients(slow, cotangent, *double(z, q, value))
    else:
        got = gradients(lambda z, v: fast(z, z, v), cotangent, z, value)
        wanted = gradients(lambda z, v: slow(z, z, v), cotangent, *double(z, value))
    assert_close(got, wanted)


@CUTS
@pytest.mark.usefixtures("_cut")
def test_only_the_groups_of_a_cancelling_row_go_in_double_precision(joined: int) -> None:
    phase, query, value, cotangent = sample(150, batch=13)
    phase[6], query[6] = 0.1 * phase[6], math.pi + 0.1 * query[6]  # nobody hears more than a trace of this row
    expected = gradients(
        lambda p, q, v: definition("von_mises", p, q, v, None, {}), cotangent, *double(phase, query, value)
    )
    got = gradients(lambda p, q, v: coherence_attention(p, v, query_phase=q), cotangent, phase, query, value)
    assert_close(got, expected, 2e-6)

    series = cosine_series("von_mises", 4.0)
    z, q = (torch.stack([t.cos(), t.sin()], -1).double() for t in (phase, query))
    plan = plan_of(series, True, False, None, 2, split=True)
    groups = Call(z, value, q, None, plan).cut[0]
    assert coherence_op._is_full(value, plan)
    flags = coherence_full.forward(z, value, q, None, plan)[-1].tolist()
    assert len(flags) == len(groups)  # as the operator under the compiler declares
    hot = [rows.start <= 6 < rows.stop for rows in groups]
    width = coherence_full._width(Call(z, value, q, None, plan))
    assert flags == [any(hot[i // width * width :][:width]) for i in range(len(hot))]
    assert not all(flags)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_are_rounded_once(dtype: torch.dtype) -> None:
    z = disc(torch.linspace(0, 6, 500), 3)
    w = torch.complex(z[:, 0].double(), z[:, 1].double())
    expected = torch.stack([w**m for m in range(1, 18)], -1)
    got = powers(z, 17, dtype)
    assert got.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
    eps = torch.finfo(dtype).eps * (1 if dtype == torch.float32 else 20)
    for a, b in ((got.real, expected.real), (got.imag, expected.imag)):
        assert ((a - b).abs() <= eps / 2 * b.abs() + 1e-14).all()
