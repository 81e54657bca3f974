"""A buffer of samples that is uniform over everything it was offered (Vitter 1985, algorithm R)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.specs import Batch


def reservoir_places(seen: int, count: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Which of ``count`` new items enter after ``seen`` others, and where: (rows, places), each place once.

    Item n (from 0) takes place n while there is room, else a place r drawn from 0..n if r < capacity: every item is
    then kept with probability capacity / n. Draws from torch's default generator, which the trainer seeds per step.
    """
    numbers = torch.arange(seen, seen + count)
    drawn = (torch.rand(count, dtype=torch.float64) * (numbers + 1)).long()
    places = torch.where(numbers < capacity, numbers, drawn)
    taken = {int(places[row]): row for row in range(count) if places[row] < capacity}  # a later item pushes out
    return torch.tensor(list(taken.values()), dtype=torch.long), torch.tensor(list(taken), dtype=torch.long)


class Reservoir:
    """At most ``capacity`` samples with their labels, masks and any ``extra`` rows kept beside them, on the CPU.

    What is larger than the data holds all of it, and takes the memory of what it holds.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise UsageError(f"a buffer holds at least 1 sample, not {capacity}; without one, use strategy 'naive'")
        self.capacity, self.seen = capacity, 0
        self.columns: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def offer(self, batch: Batch, places: tuple[Tensor, Tensor] | None = None, **extra: Tensor) -> None:
        """Every row of ``batch`` is offered once. ``places``: drawn beforehand by ``draw_places``; ``extra`` columns
        then hold the rows that enter, in that order."""
        rows, where = self.draw_places(len(batch)) if places is None else places
        self.seen += len(batch)
        if not len(rows):
            return
        kept = {"x": batch.x[rows], "y": batch.y[rows]}
        if batch.mask is not None:
            kept["mask"] = batch.mask[rows]
        for name, values in (kept | extra).items():
            values = values.detach().cpu()
            if name not in self.columns:
                self.columns[name] = values.new_zeros((0, *values.shape[1:]))
            if name in ("x", "mask"):
                self._widen(name, values.shape[1])
                values = _widened(values, self.columns[name].shape[1])
            column = self.columns[name]
            if len(self) > len(column):
                new = column.new_zeros((len(self) - len(column), *column.shape[1:]))
                column = self.columns[name] = torch.cat([column, new])
            column[where] = values

    def draw_places(self, count: int) -> tuple[Tensor, Tensor]:
        """Where the next ``count`` items will go."""
        return reservoir_places(self.seen, count, self.capacity)

    def draw(self, count: int) -> tuple[Batch, Tensor]:
        """``count`` different samples at random, all if there are fewer, and their places."""
        places = torch.randperm(len(self))[:count]
        mask = self.columns.get("mask")
        found = Batch(self.columns["x"][places], self.columns["y"][places], None if mask is None else mask[places])
        return found, places

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen": torch.tensor(self.seen), **self.columns}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.seen = int(state["seen"])
        self.columns = {name: values.clone() for name, values in state.items() if name != "seen"}

    def _widen(self, name: str, length: int) -> None:
        self.columns[name] = _widened(self.columns[name], length)


def _widened(values: Tensor, length: int) -> Tensor:
    """Rows (n, T, ...) with zeros (for a mask False) behind, to ``length`` steps at least."""
    missing = length - values.shape[1]
    if missing <= 0:
        return values
    return F.pad(values, (*[0] * (2 * (values.dim() - 2)), 0, missing))


def joined(*batches: Batch) -> Batch:
    """Several batches as one; rows of tokens are padded to the longest."""
    length = max(batch.x.shape[1] for batch in batches)
    mask = None
    if batches[0].mask is not None:
        mask = torch.cat([_widened(batch.mask, length) for batch in batches if batch.mask is not None])
    return Batch(
        torch.cat([_widened(batch.x, length) for batch in batches]), torch.cat([batch.y for batch in batches]), mask
    )


def rows(batch: Batch, chosen: slice) -> Batch:
    """Some rows of ``batch``."""
    mask = None if batch.mask is None else batch.mask[chosen]
    return replace(batch, x=batch.x[chosen], y=batch.y[chosen], mask=mask)
