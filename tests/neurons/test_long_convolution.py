"""The FFT convolution against numpy's, against its weight matrix, and its derivatives against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from neurons.ops.long_convolution import fast_length, long_convolution, long_convolution_reference


def drawn(steps: int, batch: int = 2, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, channels, steps), (channels, steps), (channels, steps - 1)]
    x, kernel, behind = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, kernel, behind


@pytest.mark.parametrize("steps", [1, 2, 7, 130])
def test_is_numpys_convolution(steps: int) -> None:
    x, kernel, behind = drawn(steps)
    causal, both = long_convolution(x, kernel), long_convolution(x, kernel, behind)
    for b in range(2):
        for c in range(3):
            whole = np.convolve(x[b, c], torch.cat([behind[c].flip(0), kernel[c]]))
            np.testing.assert_allclose(causal[b, c], np.convolve(x[b, c], kernel[c])[:steps], atol=1e-11)
            np.testing.assert_allclose(both[b, c], whole[steps - 1 : 2 * steps - 1], atol=1e-11)


@pytest.mark.parametrize("steps", [1, 2, 7, 130])
def test_is_its_weight_matrix(steps: int) -> None:
    x, kernel, behind = drawn(steps)
    torch.testing.assert_close(long_convolution(x, kernel), long_convolution_reference(x, kernel), rtol=0, atol=1e-11)
    found, wanted = long_convolution(x, kernel, behind), long_convolution_reference(x, kernel, behind)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_first_and_second_derivatives() -> None:
    inputs = [t.requires_grad_() for t in drawn(6, channels=2)]
    assert torch.autograd.gradcheck(long_convolution, inputs)
    assert torch.autograd.gradgradcheck(long_convolution, inputs)
    torch.library.opcheck(torch.ops.neurons.circular_convolution.default, (inputs[0], inputs[1]))


def test_float32_is_as_exact_as_float32() -> None:
    x, kernel, _ = drawn(3000)
    found = long_convolution(x.float(), kernel.float() / 55)
    torch.testing.assert_close(found.double(), long_convolution(x, kernel / 55), rtol=0, atol=1e-5)


def test_no_complex_tensor_is_in_the_compiled_graph() -> None:
    torch._dynamo.reset()
    seen: list[torch.dtype] = []

    def look(graph: torch.fx.GraphModule, _: object) -> object:
        seen.extend(node.meta["val"].dtype for node in graph.graph.nodes if isinstance(node.meta.get("val"), Tensor))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=look, bw_compiler=look)
    x, kernel, behind = (t.float().requires_grad_() for t in drawn(20))
    compiled = torch.compile(long_convolution, fullgraph=True, backend=backend, dynamic=False)
    out, expected = compiled(x, kernel, behind), long_convolution(x, kernel, behind)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    wanted = torch.autograd.grad(expected.square().sum(), (x, kernel, behind))
    found = torch.autograd.grad(out.square().sum(), (x, kernel, behind))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert torch.float32 in seen
    assert not any(dtype.is_complex for dtype in seen)


def test_fast_lengths_are_the_least_of_their_kind() -> None:
    allowed = sorted(m << k for m in (1, 3, 5, 9, 15) for k in range(12))
    for least in range(1, 2000):
        assert fast_length(least) == next(length for length in allowed if length >= least)
