"""VGG-5 against torch's own operations, its random crops, and predictive coding on its stages."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baselines.models.vgg5 import ACTIVATIONS, VGG5, moved
from learning import RULES
from learning.rules.probe import gradient_cosine
from neurons.errors import UsageError
from neurons.specs import Batch, InputSpec, OutputSpec

SQUARE = {"input": InputSpec("features", 8, 24), "output": OutputSpec("label", 3)}  # 8 x 8 pixels of three channels


def batch(rows: int = 6, dtype: torch.dtype = torch.float32) -> Batch:
    torch.manual_seed(1)
    return Batch(torch.rand(rows, 8, 24, dtype=dtype), torch.randint(0, 3, (rows,)))


def small(**options: object) -> VGG5:
    torch.manual_seed(0)
    return VGG5(**SQUARE, width=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_four_convolutions_with_pooling_and_a_linear_readout(activation: str) -> None:
    model, given = small(activation=activation), batch()
    values = {"gelu": F.gelu, "hard_tanh": F.hardtanh, "relu": F.relu}
    x = torch.stack([4 * given.x[:, :, c::3] - 2 for c in range(3)], 1)  # the channels of a pixel lie side by side
    for block in model.stages[:-1]:
        x = F.conv2d(x, block.convolution.weight, block.convolution.bias, padding=1)
        x = F.max_pool2d(values[activation](x), 2, ceil_mode=True)
    linear = model.stages[-1].linear
    torch.testing.assert_close(model(given), F.linear(x.flatten(1), linear.weight, linear.bias))
    assert [block.convolution.out_channels for block in model.stages[:-1]] == [4, 8, 16, 16]


def test_the_published_size_on_cifar() -> None:
    model = VGG5(input=InputSpec("features", 32, 96), output=OutputSpec("label", 10))
    sizes = [3, 128, 256, 512, 512]
    weights = sum(9 * below * above + above for below, above in itertools.pairwise(sizes))
    assert model.parameter_counts()["total"] == weights + 512 * 2 * 2 * 10 + 10


def test_what_a_row_is() -> None:
    output = OutputSpec("label", 10)
    for size, channels, found in ((28, None, 1), (84, None, 3), (40, None, 1), (56, 7, 7)):
        model = VGG5(input=InputSpec("features", 28, size), output=output, width=2, channels=channels)
        assert model.stages[0].convolution.in_channels == found
    with pytest.raises(UsageError, match="no pixels of 5 channels"):
        VGG5(input=InputSpec("features", 28, 28), output=output, channels=5)
    tokens = VGG5(input=InputSpec("tokens", 28, 7), output=output, width=2, embedding=5)
    given, table = torch.randint(0, 7, (3, 20)), tokens.stages[0].embed.weight
    as_picture = F.pad(table[given], (0, 0, 0, 8))[:, None]
    seen = tokens.stages[0](given, tokens.context(Batch(given, given[:, 0])))
    first = tokens.stages[0].convolution
    wanted = F.max_pool2d(F.gelu(F.conv2d(as_picture, first.weight, first.bias, padding=1)), 2, ceil_mode=True)
    torch.testing.assert_close(seen, wanted.flatten(1))
    with pytest.raises(UsageError, match="Did you mean 'relu'"):
        small(activation="rlu")
    with pytest.raises(UsageError, match="width and embedding >= 1"):
        VGG5(**SQUARE, width=0)
    with pytest.raises(UsageError, match="batch of 9 steps"):
        small()(Batch(torch.rand(2, 9, 24), torch.zeros(2, dtype=torch.int64)))


def test_moved_pictures_are_crops_of_the_padded_ones_or_their_mirrors() -> None:
    torch.manual_seed(0)
    pictures = torch.randn(60, 2, 5, 6)
    padded = F.pad(pictures, (1, 1, 1, 1))
    seen = set()
    for index, found in enumerate(moved(pictures, shift=1, flip=True)):
        places = [
            (down, right, mirrored)
            for down in range(3)
            for right in range(3)
            for mirrored in (False, True)
            if torch.equal(
                padded[index, :, down : down + 5, right : right + 6].flip(-1)
                if mirrored
                else padded[index, :, down : down + 5, right : right + 6],
                found,
            )
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 12  # of 18
    assert torch.equal(moved(pictures, shift=0, flip=False), pictures)


def test_pictures_move_in_training_only() -> None:
    model, given = small(shift=2, flip=True), batch()
    assert not torch.equal(model.train()(given), model(given))
    assert torch.equal(model.eval()(given), model(given))
    model.load_state_dict(small().state_dict())
    assert torch.equal(model(given), small().eval()(given))


@pytest.mark.parametrize("variant", ["spc", "ipc", "epc", "pn", "nn", "cn", "pcalm"])
def test_every_settling_variant_descends_on_it(variant: str) -> None:
    model, given = small(shift=1, flip=True).double(), batch(dtype=torch.float64)
    report = RULES.build("predictive-coding", variant=variant, steps=6).step(model, given, update=lambda seen: None)
    assert report.scalars.get("retries", 0) == 0
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_exact_and_nudged_variants_are_backprop_with_the_same_crops() -> None:
    model, given = small(shift=1, flip=True, dropout=0.2).double(), batch(dtype=torch.float64)
    assert gradient_cosine(RULES.build("predictive-coding", variant="zil"), model, given)["cosine"] > 1 - 1e-13
    centred = RULES.build("predictive-coding", variant="cn", nudge=1e-3, steps=200, inference_rate=0.3)
    assert gradient_cosine(centred, model, given)["cosine"] > 1 - 1e-6


def test_the_states_are_those_after_pooling() -> None:
    assert [type(stage.pool) for stage in small().stages[:-1]] == [nn.MaxPool2d] * 4
    x, shapes, model = batch().x, [], small()
    for stage in model.stages[:-1]:
        x = stage(x, model.context(batch()))
        shapes.append(x.shape[1])
    assert shapes == [4 * 16, 8 * 4, 16, 16]
