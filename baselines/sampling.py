"""Text from a model: one symbol after another, each drawn from what the model expects behind those before it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.setup import Setup
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch
from tasks.codec import Codec
from tasks.language import TextData
from tasks.metrics import perplexity


def text_data(made: Setup, run: Path) -> TextData:
    """The text that the run in folder ``run`` learned; UsageError where it learned none."""
    if not isinstance(made.data, TextData):
        raise UsageError(f"'{run}' learned '{made.task.name}', which is no text. Try: neurons train stdlib-nano")
    return made.data


@dataclass(frozen=True)
class Choice:
    """How a symbol is drawn: from softmax(logits / ``temperature``), at 0 always the likeliest; of the ``top_k``
    likeliest alone; of the fewest that together hold ``top_p`` of what is left."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"--temperature is 0 (greedy) or more, and finite, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"--top-k keeps at least 1 symbol, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p lies above 0 and at most at 1, not {self.top_p}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """(V,) float64 of ``logits`` (V,); a symbol whose logit is -inf is never drawn."""
        logits = logits.double()
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
        scaled = (logits - logits.max()) / self.temperature  # so that no small temperature makes the likeliest infinite
        sorted_logits, order = torch.sort(scaled, descending=True, stable=True)
        p = sorted_logits.softmax(-1)
        if self.top_k is not None:
            p[self.top_k :] = 0
            p /= p.sum()
        if self.top_p is not None:
            p[p.cumsum(-1) - p >= self.top_p] = 0  # what the likelier ones hold already
        return torch.zeros_like(p).scatter(0, order, p / p.sum())

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """The id of one symbol."""
        return int(torch.multinomial(self.probabilities(logits), 1, generator=generator))


class Reader:
    """Reads symbols and expects the next one.

    A model that streams is given each symbol once and goes on from ``context.state``, whatever it keeps there: a
    recurrent state, or keys and values. Where it refuses to, because it keeps none or knows no more positions, the last
    ``model.input.length`` symbols are read anew at every step; ``streams`` tells.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.streams = model, True
        self._read: list[int] = []
        self._state: dict[str, Any] = {}
        self._device = next(model.parameters()).device

    @torch.no_grad()
    def feed(self, ids: Sequence[int]) -> Tensor:
        """(V,) float32 logits, on the CPU, of the symbol behind ``ids`` and all that was fed before."""
        length = self.model.input.length
        self._read += ids
        if self.streams:
            try:
                for start in range(0, len(ids), length):
                    logits = self._go_on(ids[start : start + length])
                return logits
            except UsageError:
                if len(ids) > length:
                    raise UsageError(
                        f"the start has {len(ids)} symbols, and model '{self.model.name}' reads {length}: shorten it"
                    ) from None
                self.streams, self._state = False, {}
        return self._last(self.model(self._batch(self._read[-length:])))

    def _go_on(self, ids: Sequence[int]) -> Tensor:
        batch = self._batch(ids)
        context = self.model.context(batch)
        context.state = self._state
        logits = self._last(self.model(batch, context))
        self._state = context.next_state
        return logits

    def _batch(self, ids: Sequence[int]) -> Batch:
        x = torch.tensor([ids], device=self._device)
        return Batch(x, torch.zeros_like(x))

    def _last(self, logits: Tensor) -> Tensor:
        return logits[0, -1].float().cpu()


@dataclass(frozen=True)
class Sampled:
    """One sample: its ``text`` behind the start, its ``symbols``, the negative log-likelihood that the model itself
    gives them (``nats``, undrawn from: temperature 1, nothing cut), how it ``ended`` and whether the model streamed."""

    text: str
    symbols: int
    nats: float
    ended: Literal["length", "stop"]
    streamed: bool
    seconds: float


def sample(
    model: Model,
    codec: Codec,
    start: Sequence[int],
    *,
    length: int,
    choice: Choice,
    seed: int,
    number: int = 0,
    stops: Sequence[str] = (),
    out: Callable[[str], None] = lambda text: None,
) -> Sampled:
    """Sample ``number`` behind the symbols ``start``: ``length`` symbols, or fewer where one of the texts
    ``stops`` would come.

    ``out`` is given the text as it comes. The same seed and number give the same text.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    never = torch.tensor([not piece for piece in codec.pieces])
    reader, drawn, costs = Reader(model), 0, 0.0

    def symbols() -> Iterator[int]:
        nonlocal drawn, costs
        logits = reader.feed(start)
        for place in range(length):
            chosen = choice.draw(logits.masked_fill(never, -torch.inf), generator)
            drawn, costs = drawn + 1, costs - float(logits.log_softmax(-1)[chosen])
            yield chosen
            if place + 1 < length:
                logits = reader.feed([chosen])

    began = time.perf_counter()
    was_training = model.training
    model.eval()
    try:
        text, stopped = _until(codec.stream(symbols()), stops, out)
    finally:
        model.train(was_training)
    seconds = time.perf_counter() - began
    return Sampled(text, drawn, costs, "stop" if stopped else "length", reader.streams, seconds)


def _until(pieces: Iterator[str], stops: Sequence[str], out: Callable[[str], None]) -> tuple[str, bool]:
    """The text of ``pieces`` up to the first of ``stops`` that is whole, and whether one came; what may be the
    beginning of one ``out`` does not hear."""
    text, told = "", 0
    for piece in pieces:
        text += piece
        found = min((place for stop in stops if (place := text.find(stop, told)) >= 0), default=-1)
        if found >= 0:
            out(text[told:found])
            return text[:found], True
        kept = len(text) - max((_begun(text[told:], stop) for stop in stops), default=0)
        out(text[told:kept])
        told = kept
    out(text[told:])
    return text, False


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """distinct-n: different runs of ``n`` words over all of them, in all texts together (Li et al. 2016); None where
    no text has ``n`` words."""
    runs: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.split()
        runs.update(zip(*(words[i:] for i in range(n)), strict=False))
    return len(runs) / runs.total() if runs else None


def summary(samples: Sequence[Sampled]) -> dict[str, float | None]:
    """``distinct_1`` to ``distinct_3``, ``perplexity`` per symbol under the model itself, ``symbols_per_second``."""
    texts = [one.text for one in samples]
    drawn, seconds = sum(one.symbols for one in samples), sum(one.seconds for one in samples)
    told: dict[str, float | None] = {f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}
    told["perplexity"] = perplexity(sum(one.nats for one in samples), drawn)
    told["symbols_per_second"] = drawn / seconds if seconds else None
    return told
