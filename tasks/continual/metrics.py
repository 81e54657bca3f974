"""What a matrix of accuracies says about learning and forgetting, under each project's own definitions.

``R[i, j]``: accuracy on task j after training on task i, a fraction; T tasks counted from 0 here. ``b[j]``: accuracy of
the untrained model on task j.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from neurons.errors import UsageError, nearest

Convention = Literal["chaudhry", "gem", "avalanche", "mammoth", "diaz"]
Scenario = Literal["task", "domain", "class"]


def summarise(
    R: ArrayLike,
    *,
    untrained: ArrayLike | None = None,
    convention: Convention = "chaudhry",
    scenario: Scenario | None = None,
    joint: ArrayLike | None = None,
    samples: Sequence[int] | None = None,
) -> dict[str, float | None]:
    """Every end-of-stream metric of ``R`` (T, T); None where a metric is undefined.

    With l the last task:

    - ``acc``: mean_j R[l, j].   ``bwt``: mean_{j<l} (R[l, j] - R[j, j]), negative is forgetting (Lopez-Paz & Ranzato).
    - ``fwt``: mean_{j>0} (R[j-1, j] - b[j]); needs ``untrained`` (T,), and is undefined in the class-incremental
      ``scenario``, where no output of a task to come can win.
    - ``forgetting``: mean_{j<l} (max_{i<l} R[i, j] - R[l, j]), lower is better (Chaudhry et al. 2018).
    - ``intransigence``: mean_k (a[k] - R[k, k]); a[k] of ``joint`` (T,) is the accuracy on task k of a model trained on
      tasks 0..k together.
    - ``learning_accuracy``: mean_j R[j, j].   ``aia``: mean_i mean_{j<=i} R[i, j].
    - ``a_dr``, ``bwt_dr``, ``fwt_dr`` (Diaz-Rodriguez et al. 2018): means of R[i, j] over i >= j, of R[i, j] - R[j, j]
      over i > j, of R[i, j] over i < j;   ``rem``: 1 - |min(bwt_dr, 0)|;   ``bwt_plus``: max(bwt_dr, 0).

    ``convention`` gives ``acc``, ``bwt``, ``fwt`` and ``forgetting`` another project's meaning where it has one:

    - ``gem``: its code divides ``bwt`` and ``fwt`` by T, not by T - 1.
    - ``avalanche``: ``forgetting`` is -``bwt``; ``acc`` is weighted by ``samples`` (T,), the sizes of the test splits.
    - ``mammoth``: the maximum in ``forgetting`` runs over the last row too.
    - ``diaz`` (CapyMOA): ``acc``, ``bwt``, ``fwt`` are ``a_dr``, ``bwt_dr``, ``fwt_dr``.

    A single task has neither forgetting nor transfer. UsageError for anything but a full matrix of fractions.
    """
    if convention not in get_args(Convention):
        have = ", ".join(get_args(Convention))
        raise UsageError(f"unknown convention '{convention}'.{nearest(convention, get_args(Convention))} Known: {have}")
    if scenario is not None and scenario not in get_args(Scenario):
        raise UsageError(
            f"unknown scenario '{scenario}'.{nearest(scenario, get_args(Scenario))} Known: task, domain, class"
        )
    matrix = _matrix(R)
    tasks = len(matrix)
    b = _vector("untrained", untrained, tasks)
    reference = _vector("joint", joint, tasks)
    weights = np.ones(tasks) if samples is None else np.asarray(samples, dtype=np.float64)
    if weights.shape != (tasks,) or not (weights > 0).all():
        raise UsageError(f"samples must be {tasks} positive counts, one a task of R, not {samples}")

    last, own = matrix[-1], matrix.diagonal()
    lower, upper = np.tril_indices(tasks, -1), np.triu_indices(tasks, 1)
    several = tasks > 1
    drops = last[:-1] - own[:-1]
    gains = None if b is None else matrix.diagonal(1) - b[1:]
    peaks = (matrix if convention == "mammoth" else matrix[:-1])[:, :-1]
    found: dict[str, float | None] = {
        "acc": float(last.mean()),
        "bwt": _mean(drops),
        "fwt": None if gains is None else _mean(gains),
        "forgetting": _mean(peaks.max(axis=0) - last[:-1]) if several else None,
        "intransigence": None if reference is None else float((reference - own).mean()),
        "learning_accuracy": float(own.mean()),
        "aia": float(np.mean([matrix[i, : i + 1].mean() for i in range(tasks)])),
        "a_dr": float(matrix[np.tril_indices(tasks)].mean()),
        "bwt_dr": _mean((matrix - own)[lower]),
        "fwt_dr": _mean(matrix[upper]),
    }
    backward = found["bwt_dr"]
    found["rem"] = None if backward is None else 1 - abs(min(backward, 0.0))
    found["bwt_plus"] = None if backward is None else max(backward, 0.0)

    if convention == "gem" and several:
        found["bwt"] = float(drops.sum()) / tasks
        found["fwt"] = None if gains is None else float(gains.sum()) / tasks
    elif convention == "avalanche":
        found["acc"] = float(last @ weights / weights.sum())
        found["forgetting"] = _mean(-drops)
    elif convention == "diaz":
        found |= {"acc": found["a_dr"], "bwt": backward, "fwt": found["fwt_dr"]}
    if scenario == "class":
        found["fwt"] = found["fwt_dr"] = None
    return found


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _matrix(R: ArrayLike) -> np.ndarray:
    try:
        matrix = np.asarray(R, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError("R must be a matrix of numbers with rows of equal length: one row a trained task") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise UsageError(f"R must be square, (T, T) with one row a trained task, not of shape {matrix.shape}")
    wrong = np.argwhere(~((matrix >= 0) & (matrix <= 1)))
    if len(wrong):
        i, j = wrong[0]
        raise UsageError(
            f"R[{i}, {j}] is {matrix[i, j]:g}: accuracies are fractions between 0 and 1, above the diagonal too"
        )
    return matrix


def _vector(name: str, values: ArrayLike | None, tasks: int) -> np.ndarray | None:
    if values is None:
        return None
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (tasks,):
        raise UsageError(f"{name} must hold {tasks} accuracies, one a task of R, not shape {vector.shape}")
    if not ((vector >= 0) & (vector <= 1)).all():
        raise UsageError(f"{name} must hold fractions between 0 and 1, not {vector.tolist()}")
    return vector
