"""What an observer sees of one settling."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Trace:
    """``energies``: a row before every settling step and one after the last, of each hidden stage and then the loss's,
    summed over the batch. ``stationarity``: one number a step. ``rate`` was the inference rate, and ``lambda_max`` the
    largest curvature of the energy at the forward pass; None where nothing settles on it.
    """

    energies: list[list[float]] = field(default_factory=list)
    stationarity: list[float] = field(default_factory=list)
    lambda_max: float | None = None
    rate: float | None = None

    def restart(self, rate: float) -> None:
        """A settling begins, at ``rate``; one that is tried again is forgotten."""
        self.rate = rate
        self.energies.clear()
        self.stationarity.clear()
