"""The early word about a run at chance: when it comes, when it does not, and that it comes once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from baselines.at_chance import early_warning
from baselines.config import resolve
from baselines.experiment import run
from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.task import Split, Task, TaskData


def rows_of(*split: np.ndarray) -> Split:
    labels = np.concatenate(split)
    return Split([np.zeros(1, np.int64)] * len(labels), labels)


ZEROS, ONES = np.zeros(100, np.int64), np.ones(100, np.int64)
DATA = TaskData(
    train=rows_of(ZEROS, ONES[:50]), held_out=rows_of(ZEROS, ONES), test=rows_of(ZEROS), input=InputSpec(),
    output=OutputSpec(), source="s", protocol="p",
)  # fmt: skip
LEVEL = 0.5 + 1.96 * (0.25 / 200) ** 0.5  # of held out, not of the test, where the label 0 is all


def curve(*values: float | None, every: int = 10) -> list[dict[str, Any]]:
    """Evaluations every ``every`` steps, the training loss of the next one last."""
    found: list[dict[str, Any]] = []
    for step, value in enumerate(values, 1):
        found += [
            {"step": step * every, "split": "train"},
            {"step": step * every, "split": "held_out", "primary": value},
        ]
    return [*found, {"step": (len(values) + 1) * every, "split": "train"}]


def told(*values: float | None, now: float) -> str | None:
    return early_warning(curve(*values), now, steps=100, task=Task(), data=DATA)


def test_it_comes_at_the_first_evaluation_behind_three_tenths_and_only_there() -> None:
    assert told(0.5, now=0.5) is None
    line = told(0.5, 0.5, now=LEVEL - 1e-6)
    assert line is not None
    assert line.startswith("at chance level so far: held-out accuracy 0.569 at step 30 of 100, against 0.500 for the")
    assert told(0.5, 0.5, 0.5, now=0.5) is None


@pytest.mark.parametrize(("values", "now"), [((0.6, 0.5), 0.5), ((0.5, 0.5), LEVEL + 1e-6), ((0.5, None), 0.9)])
def test_one_evaluation_above_chance_keeps_it_quiet(values: tuple[float | None, ...], now: float) -> None:
    assert told(*values, now=now) is None


def test_an_evaluation_that_gave_no_number_is_none_above_chance() -> None:
    assert told(0.5, None, now=0.5) is not None


def test_the_only_evaluation_at_the_end_is_the_results_own_business() -> None:
    assert early_warning([{"step": 100, "split": "train"}], 0.5, steps=100, task=Task(), data=DATA) is None


def test_where_lower_is_better_chance_is_a_ceiling() -> None:
    class Falling(Task):
        higher_is_better, primary = False, "bits_per_byte"

        def chance(self, data: TaskData) -> tuple[float, str]:
            return 8.0, "8.000 for a uniform guess"

    line = early_warning(curve(9.0, 8.5), 8.1, steps=100, task=Falling(), data=DATA)
    assert line is not None
    assert "bits per byte 8.100 at step 30" in line
    assert early_warning(curve(9.0, 7.9), 8.1, steps=100, task=Falling(), data=DATA) is None


def test_a_run_that_cannot_learn_says_so_once_on_stderr(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(TASKS.get("digits"), "chance", lambda self, data: (1.0, "1.000 for a test"))
    sets = ["trainer.steps=10", "trainer.batch_size=8", "trainer.eval_every=1"]
    run(resolve(task="digits", model="mlp:width=4", rule="backprop", seed=3, sets=sets).config, out=tmp_path / "a")
    lines = [line for line in capfd.readouterr().err.splitlines() if "at chance" in line]
    assert len(lines) == 1
    assert lines[0].startswith("mlp / backprop, seed 3: at chance level so far: held-out accuracy 0.")
    assert "at step 3 of 10" in lines[0]
