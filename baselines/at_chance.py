"""An early word about a run that has not begun to learn, while there is still time to end it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.task import Task, TaskData

SHARE = 0.3  # of the steps: so long a run may look for its beginning


def no_better(value: float, level: float, *, higher_is_better: bool) -> bool:
    """Whether ``value`` is no better than ``level``."""
    return value <= level if higher_is_better else value >= level


def early_warning(
    rows: Sequence[dict[str, Any]], value: float, *, steps: int, task: Task, data: TaskData
) -> str | None:
    """One line at the first evaluation behind ``SHARE`` of the ``steps``, if all so far were at chance level.

    ``rows``: the curve up to here, the training loss of this step last; ``value``: the held-out metric. The last
    evaluation is left to the warnings of the result. Nothing is remembered: a resumed run warns where it would have.
    """
    step = rows[-1]["step"]
    before = [row for row in rows if row["split"] == "held_out"]
    if not SHARE * steps <= step < steps or any(row["step"] >= SHARE * steps for row in before):
        return None
    level, whose = task.chance(replace(data, test=data.held_out))
    known = [row["primary"] for row in before if row["primary"] is not None]
    if not all(no_better(one, level, higher_is_better=task.higher_is_better) for one in [*known, value]):
        return None
    told = task.primary.replace("_", " ")
    return (
        f"at chance level so far: held-out {told} {value:.3f} at step {step} of {steps}, against {whose}. "
        "Try: another trainer.lr, or more steps"
    )
