"""VGG-5: four convolutional stages and a linear readout, on pictures that come row by row."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.models.mlp import VectorReadout
from neurons import MODELS
from neurons.errors import UsageError, nearest
from neurons.model import Model
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "hard_tanh": nn.Hardtanh, "relu": nn.ReLU}
WIDTHS = (1, 2, 4, 4)  # of the four stages, in units of ``width``


class Block(nn.Module):
    """A 3 x 3 convolution, an activation, the maximum of every 2 x 2: (B, C * H * W) -> (B, D * H' * W'), H' = H / 2
    and W' = W / 2 rounded up. Between stages a picture is one vector a sample: it has no axis of tokens.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, *, activation: str) -> None:
        super().__init__()
        self.shape = shape
        self.convolution = nn.Conv2d(shape[0], width, kernel_size=3, padding=1)
        self.activation = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.pool(self.activation(self.convolution(x.unflatten(1, self.shape)))).flatten(1)


class FirstBlock(Block):
    """A ``Block`` on the rows of pictures, levels from 0 to 1, or tokens: (B, H, W * C) or (B, H) -> (B, D * H' * W').

    Levels become ``4 x - 2``, about zero mean and unit variance; a token becomes a row of W C numbers. In training each
    picture is moved by up to ``shift`` pixels along both axes, zeros coming in from the border, and, with ``flip``,
    mirrored with probability 1/2. Rows that are masked or missing are zeros.
    """

    def __init__(
        self, shape: tuple[int, int, int], width: int, *, symbols: int, activation: str, shift: int, flip: bool
    ) -> None:
        super().__init__(shape, width, activation=activation)
        self.embed = nn.Embedding(symbols, shape[0] * shape[2]) if symbols else None
        self.shift, self.flip = shift, flip

    def forward(self, x: Tensor, context: Context) -> Tensor:
        channels, height, width = self.shape
        missing = height - x.shape[1]
        if missing < 0:
            raise UsageError(f"batch of {x.shape[1]} steps, but the model holds {height}: raise input.length")
        rows = 4 * x - 2 if self.embed is None else self.embed(x)
        rows = F.pad(zero_masked(rows, context.mask), (0, 0, 0, missing))
        pictures = rows.unflatten(2, (width, channels)).permute(0, 3, 1, 2)
        if self.training and (self.shift or self.flip):
            pictures = moved(pictures, shift=self.shift, flip=self.flip)
        return super().forward(pictures.flatten(1), context)


def moved(pictures: Tensor, *, shift: int, flip: bool) -> Tensor:
    """Each picture (B, C, H, W) shifted by up to ``shift`` pixels an axis and perhaps mirrored, all drawn at random."""
    count, channels, height, width = pictures.shape
    device = pictures.device
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = torch.arange(height, device=device) + down
    sample, channel = torch.arange(count, device=device), torch.arange(channels, device=device)
    padded = F.pad(pictures, (shift, shift, shift, shift))
    places = rows[:, None, :, None], (columns + right)[:, None, None, :]
    return padded[sample[:, None, None, None], channel[None, :, None, None], *places]


@MODELS.register("vgg5")
class VGG5(Model):
    """Convolution, activation and max-pooling, four times, of 1, 2, 4 and 4 times ``width`` channels; linear readout.

    At ``width`` 128 it is the VGG-5 on which rules of predictive coding are compared (Pinchetti et al. 2024; after
    Simonyan & Zisserman 2015). A sample is a picture of T rows, W pixels of C ``channels`` side by side in each;
    ``channels`` None makes it square where that is possible, C = size / T, else grey. Tokens become rows of
    ``embedding`` levels. Labels only. ``shift`` and ``flip`` vary the pictures in training: random crops and
    mirror images.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        activation: Literal["gelu", "hard_tanh", "relu"] = "gelu",
        dropout: float = 0.0,
        channels: int | None = None,
        embedding: int = 16,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(input, output)
        if output.kind != "label":
            raise UsageError(f"model 'vgg5' is not causal and cannot answer '{output.kind}'. Try: transformer")
        if activation not in ACTIVATIONS:
            have, near = ", ".join(ACTIVATIONS), nearest(str(activation), ACTIVATIONS)
            raise UsageError(f"activation is one of {have}, not {activation!r}.{near}")
        if min(width, embedding) < 1 or shift < 0:
            raise UsageError(f"vgg5 needs width and embedding >= 1, shift >= 0, not {width}, {embedding} and {shift}")
        self.width, self.activation, self.dropout, self.channels = width, activation, dropout, channels
        self.embedding, self.shift, self.flip = embedding, shift, flip
        symbols, size = (input.size, embedding) if input.kind == "tokens" else (0, input.size)
        square = not symbols and not size % input.length
        colours = channels or (size // input.length if square else 1)
        if channels is not None and (channels < 1 or size % channels):
            raise UsageError(f"rows of {size} levels are no pixels of {channels} channels. Leave model.channels out")
        shape = (colours, input.length, size // colours)
        blocks: list[Block] = []
        for maps in (width * factor for factor in WIDTHS):
            if blocks:
                blocks.append(Block(shape, maps, activation=activation))
            else:
                blocks.append(FirstBlock(shape, maps, symbols=symbols, activation=activation, shift=shift, flip=flip))
            shape = (maps, -(-shape[1] // 2), -(-shape[2] // 2))
        readout = VectorReadout(width=math.prod(shape), classes=output.size, dropout=dropout)
        self.stages = nn.ModuleList([*blocks, readout])
