"""What happens between the rows of R: metrics of a curve that was evaluated at an interval (De Lange et al. 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from neurons.errors import UsageError


def anytime(curve: ArrayLike, during: ArrayLike, *, window: int = 10) -> dict[str, float | None]:
    """Worst cases and swings of ``curve`` (P, T): accuracy on every task at P points in time.

    ``during`` (P,): the task being trained at each point, counted from 0, never falling. Tasks that have not begun are
    not read (nan will do). With k the last task that was trained and A[p, j] the curve:

    - ``aaa``: mean_p mean_{j <= during[p]} A[p, j], the average anytime accuracy (Caccia et al. 2020).
    - ``min_acc``: mean_{j<k} min_{p: during[p] > j} A[p, j]: the depth of each old task's fall; None for a single task.
    - ``wc_acc``: A[last, k] / (k+1) + (1 - 1/(k+1)) ``min_acc``: the worst case, in one number.
    - ``windowed_forgetting``, ``windowed_plasticity``: mean_j of the largest fall, and rise, of A[:, j] between two of
      any ``window`` consecutive points since task j began; 0 where a task has a single point.
    """
    values, stage = np.asarray(curve, dtype=np.float64), np.asarray(during)
    if values.ndim != 2 or not values.size or stage.shape != (len(values),):
        raise UsageError(
            f"a curve has shape (points, tasks) and during (points,), not {values.shape} and {stage.shape}"
        )
    if not np.issubdtype(stage.dtype, np.integer) or stage.min() < 0 or stage.max() >= values.shape[1]:
        raise UsageError(f"during must name tasks 0..{values.shape[1] - 1} by number")
    if (np.diff(stage) < 0).any():
        raise UsageError("during must not fall: tasks are trained one after the other")
    if window < 2:
        raise UsageError(f"a window needs two points at least, not {window}")
    begun = np.arange(values.shape[1]) <= stage[:, None]
    known = values[begun]
    if not ((known >= 0) & (known <= 1)).all():
        raise UsageError("a curve holds accuracies, fractions between 0 and 1, for every task that has begun")
    k = int(stage[-1])
    worst = [values[stage > j, j].min() for j in range(k)]
    min_acc = float(np.mean(worst)) if worst else None
    share = 1 / (k + 1)
    falls, rises = zip(*(_swings(values[stage >= j, j], window) for j in range(k + 1)), strict=True)
    return {
        "aaa": float(np.mean([row[: now + 1].mean() for row, now in zip(values, stage, strict=True)])),
        "min_acc": min_acc,
        "wc_acc": float(share * values[-1, k] + (1 - share) * (min_acc or 0.0)),
        "windowed_forgetting": float(np.mean(falls)),
        "windowed_plasticity": float(np.mean(rises)),
    }


def _swings(series: np.ndarray, window: int) -> tuple[float, float]:
    """Largest fall and largest rise between two points less than ``window`` apart, both at least 0."""
    fall = rise = 0.0
    for lag in range(1, min(window, len(series))):
        change = series[lag:] - series[:-lag]
        fall, rise = max(fall, float(-change.min())), max(rise, float(change.max()))
    return fall, rise
