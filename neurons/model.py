"""A model is a chain of stages, ``stage(x, context) -> x``; the last one is the readout."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.pairs import paired
from neurons.specs import Batch, Context, InputSpec, Loss, OutputSpec


class Readout(Protocol):
    """A last stage: logits by call, and the loss of its own input."""

    def __call__(self, x: Tensor, context: Context) -> Tensor: ...

    def loss(self, x: Tensor, batch: Batch) -> Loss: ...


class Attention(nn.Module):
    """A mixer: (B, T, D) -> (B, T, D), zeros at masked positions.

    Wiring arguments: ``width`` (D) and ``causal``. Everything else is an option of the subclass. ``can_be_causal``: it
    has a causal form, else ``causal=True`` is a UsageError. ``reads_content``: what it mixes depends on the tokens.

    A causal attention that is given a sequence in chunks goes on exactly where ``context.state`` left off, or its
    forward calls ``whole_sequence`` first and so refuses the second chunk.
    """

    name: ClassVar[str]
    can_be_causal: ClassVar[bool] = True
    reads_content: ClassVar[bool] = True
    is_causal: bool = False

    def forward(self, x: Tensor, context: Context) -> Tensor:
        raise NotImplementedError("abstract: an attention defines forward(x, context)")

    def whole_sequence(self, context: Context) -> None:
        """For an attention that keeps no state: UsageError where ``context`` comes from an earlier chunk."""
        if context.state:
            raise UsageError(
                f"attention '{self.name}' keeps no state, so it cannot go on from an earlier chunk: give it the whole "
                "sequence. Try: attention 'gamma', which streams"
            )
        context.next_state[self.name] = None  # the next chunk is then told apart from a first one


class Model(nn.Module):
    """Base of every model. A subclass builds ``self.stages`` from ``input`` and ``output``, options kept as attributes.

    A stage is pure: same x, context and random state, same result; it returns zeros at masked positions.
    Where ``input.pair``, the chain that is set as ``stages`` is made one for pairs (``neurons.pairs``).
    """

    name: ClassVar[str]
    width_option: ClassVar[str] = "width"
    stages: nn.ModuleList

    def __init__(self, input: InputSpec, output: OutputSpec) -> None:
        super().__init__()
        self.input, self.output = input, output

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "stages" and self.input.pair:
            value = paired(value)
        super().__setattr__(name, value)

    @property
    def is_causal(self) -> bool:
        """Whether the answer at step t depends on steps <= t only."""
        return self.output.kind == "token"

    def context(self, batch: Batch) -> Context:
        """What the stages read beside x; the mask of pairs is folded as the first stage folds x."""
        mask = batch.mask
        if self.input.pair and mask is not None:
            mask = mask.flatten(0, 1)
        return Context(mask=mask)

    def _stateless(self, batch: Batch) -> Context:
        """A context that nobody sees after the call."""
        context = self.context(batch)
        context.keep_state = False
        return context

    def forward(self, batch: Batch, context: Context | None = None) -> Tensor:
        """Logits (B, C), or (B, T, V) for next-token outputs."""
        context = context or self._stateless(batch)
        x = batch.x
        for stage in self.stages:
            x = stage(x, context)
        return x

    def loss(self, batch: Batch, context: Context | None = None) -> Loss:
        """The readout's loss on this batch; what backpropagation differentiates."""
        context = context or self._stateless(batch)
        x = batch.x
        for stage in self.stages[:-1]:
            x = stage(x, context)
        return self.readout.loss(x, batch)

    @property
    def readout(self) -> Readout:
        readout: Any = self.stages[-1]
        return readout

    def end_episode(self) -> None:
        """The one place where slow state may change; most models have none. An episode is what the model lived through
        in training mode since the last end: the trainer ends one after every step, a program of its own where it
        likes."""

    def parameter_counts(self) -> dict[str, int]:
        """Keys total, trainable, non_embedding (without nn.Embedding tables), attention, state_bytes (of buffers)."""
        every = {id(p): p for p in self.parameters()}
        tables = {id(p) for m in self.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        mixing = {id(p): p for m in self.modules() if isinstance(m, Attention) for p in m.parameters()}
        return {
            "total": sum(p.numel() for p in every.values()),
            "trainable": sum(p.numel() for p in every.values() if p.requires_grad),
            "non_embedding": sum(p.numel() for i, p in every.items() if i not in tables),
            "attention": sum(p.numel() for p in mixing.values()),
            "state_bytes": sum(b.numel() * b.element_size() for b in self.buffers()),
        }
