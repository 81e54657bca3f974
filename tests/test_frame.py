"""Specs, errors and the base contracts of model, rule, strategy and task."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learning.hooks import Strategy
from learning.rule import Rule, StepReport
from neurons import errors
from neurons.model import Attention, Model
from neurons.readouts import build_readout
from neurons.specs import Batch, Context, InputSpec, Loss, OutputSpec, zero_masked
from tasks.task import Split, Task, TaskData


class Scale(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x * self.factor


class Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return zero_masked(self.table(x), context.mask)


class Toy(Model):
    def __init__(self, output: OutputSpec) -> None:
        super().__init__(InputSpec(size=10), output)
        shared = Scale()
        self.stages = nn.ModuleList([Embed(), shared, shared, build_readout(output, width=4)])


def test_model_composes_its_stages_and_asks_its_readout_for_the_loss() -> None:
    model = Toy(OutputSpec("label", 3))
    batch = Batch(
        torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([0, 2]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    )
    x = model.stages[0].table(batch.x) * batch.mask[..., None] * 4.0  # the factor 2, twice
    torch.testing.assert_close(model(batch), model.readout(x, Context(mask=batch.mask)))
    loss = model.loss(batch)
    torch.testing.assert_close(loss.objective, nn.functional.cross_entropy(model(batch), batch.y, reduction="sum"))
    assert model.readout is model.stages[-1]


def test_model_is_causal_exactly_when_it_predicts_tokens() -> None:
    assert Toy(OutputSpec("token", 10)).is_causal
    assert not Toy(OutputSpec("label", 10)).is_causal


def test_parameter_counts_by_hand_count_shared_parameters_once() -> None:
    model = Toy(OutputSpec("label", 3))
    model.readout.norm.weight.requires_grad_(False)
    head = 4 + 4 + 4 * 3 + 3
    assert model.parameter_counts() == {
        "total": 40 + 4 + head,
        "trainable": 40 + 4 + head - 4,
        "non_embedding": 4 + head,
        "attention": 4,
        "state_bytes": 24,
    }


def test_model_context_carries_the_mask() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    batch = Batch(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1), mask)
    assert Toy(OutputSpec()).context(batch).mask is mask


def test_abstract_contracts_say_so() -> None:
    for call in (
        lambda: Attention()(torch.zeros(1), Context()),
        lambda: Rule().step(None, None),
        lambda: Task().load(),
    ):
        with pytest.raises(NotImplementedError, match=r"^abstract: "):
            call()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_zero_masked_keeps_real_positions_and_zeroes_the_others(shape: tuple[int, ...]) -> None:
    x, mask = torch.randn(shape), torch.tensor([[True, True, False], [True, False, False]])
    expected = x.clone()
    expected[0, 2:], expected[1, 1:] = 0, 0
    torch.testing.assert_close(zero_masked(x, mask), expected)
    assert zero_masked(x, None) is x
    nan = torch.full(shape, torch.nan)
    assert not zero_masked(nan, torch.zeros(2, 3, dtype=torch.bool)).any()


def test_batch_moves_as_a_whole() -> None:
    batch = Batch(torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3, dtype=torch.bool))
    moved = batch.to("meta")
    assert {moved.x.device.type, moved.y.device.type, moved.mask.device.type} == {"meta"}
    assert Batch(batch.x, batch.y).to("meta").mask is None
    assert len(batch) == 2


def test_step_report_mean_is_per_counted_target() -> None:
    assert StepReport(Loss(torch.tensor(9.0), torch.tensor(6.0), 4)).mean == 1.5
    assert StepReport(Loss(torch.tensor(0.0), torch.tensor(0.0), 0)).mean == 0.0


@pytest.mark.parametrize("base", [Rule, Strategy])
def test_state_that_nobody_kept_is_refused(base: type) -> None:
    part = base()
    part.name = "toy"
    assert part.state_dict() == {}
    part.load_state_dict({})
    with pytest.raises(ValueError, match=r"'toy' keeps no state.*\['m'\]"):
        part.load_state_dict({"m": torch.zeros(1)})


def test_a_plain_strategy_changes_nothing() -> None:
    strategy, batch = Strategy(), Batch(torch.zeros(1, 1), torch.zeros(1))
    assert strategy.batch(batch) is batch
    assert strategy.loss(len) is len  # type: ignore[arg-type, comparison-overlap]
    assert strategy.memory_bytes() == 0


def test_strategy_memory_is_the_bytes_of_its_state() -> None:
    class Remembers(Strategy):
        def state_dict(self) -> dict[str, Tensor]:
            return {"a": torch.zeros(3), "b": torch.zeros(2, 2, dtype=torch.int64)}

    assert Remembers().memory_bytes() == 3 * 4 + 4 * 8


def split(*rows: list[int]) -> Split:
    return Split([np.array(row, dtype=np.int64) for row in rows], np.arange(len(rows)))


def test_split_digest_is_sha256_of_inputs_and_labels_in_order() -> None:
    data = np.array([1, 2]).tobytes() + b"|" + np.array([3]).tobytes() + b"|" + np.array([0, 1]).tobytes()
    assert split([1, 2], [3]).digest() == hashlib.sha256(data).hexdigest()
    assert len({split([1, 2], [3]).digest(), split([3], [1, 2]).digest(), split([1], [2, 3]).digest()}) == 3


def test_split_hash_sees_which_split_a_sample_is_in() -> None:
    def hashed(*splits: Split) -> str:
        return TaskData(*splits, InputSpec(), OutputSpec(), source="generated", protocol="toy").split_hash

    one, two, three = split([1]), split([2]), split([3])
    assert hashed(one, two, three) == hashed(one, two, three)
    assert hashed(one, two, three) != hashed(one, three, two)
    assert len(hashed(one, two, three)) == 16


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.RunError, 1), (errors.UsageError, 2), (errors.RequirementError, 3), (errors.DataError, 4)],
)
def test_exit_codes(error: type[errors.NeuronsError], code: int) -> None:
    assert error("what").exit_code == code
    assert issubclass(error, errors.NeuronsError)


def test_nearest_suggests_or_stays_silent() -> None:
    assert errors.nearest("gama", ["gamma", "softmax"]) == " Did you mean 'gamma'?"
    assert errors.nearest("zzz", ["gamma", "softmax"]) == ""


def test_no_other_distribution_owns_our_package_names() -> None:
    owners = importlib.metadata.packages_distributions()
    foreign = {name: owners.get(name, []) for name in ("neurons", "learning", "tasks", "baselines", "cli")}
    assert all(set(names) <= {"neurons"} for names in foreign.values()), foreign


def test_imports_point_down_only() -> None:
    """The layers of pyproject.toml, checked by import-linter."""
    pytest.importorskip("importlinter")
    root = Path(__file__).parents[1]
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout
