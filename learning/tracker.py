"""What a fit remembers of itself beside tensors."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tracker:
    """Everything a checkpoint must remember beside tensors; plain JSON data.

    ``loss_sum`` and ``loss_count`` gather the training loss since the last row, ``stale`` counts evaluations since the
    last improvement.
    """

    step: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    samples: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    lr: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    stale: int = 0
    warnings: list[str] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
