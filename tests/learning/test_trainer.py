"""The loop against hand-written steps: order of hooks, clipping, schedule, selection, early stop, precision."""

import math

import pytest
import torch
from tiny_training import Reference, TinyModel, assert_same_tensors, batch_at, evaluate, fit
from torch.nn.utils import clip_grad_norm_

from learning import OPTIMIZERS, RULES, SCHEDULES
from learning.checkpoint import model_tensors
from learning.hooks import Strategy
from learning.rule import Rule
from learning.trainer import Trainer
from neurons.errors import UsageError
from neurons.registry import describe
from neurons.specs import Loss

PLAIN = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "clip": None, "select": "last"}


def run_plain(steps, *, model=None, rule=None, trainer=None, **arguments):
    """Train by SGD without momentum at a constant rate, where the weights are easy to compute by hand."""
    model = model or TinyModel(dropout=0.0)
    options = {**PLAIN, "steps": steps, "lr": 0.1, **(trainer or {})}
    optimizer = OPTIMIZERS.build("sgd", momentum=0.0)
    arguments = {"batches": batch_at, "evaluate": evaluate, "optimizer": optimizer, **arguments}
    return model, Trainer(**options).fit(model, rule or Reference(), **arguments)


def by_hand(steps, change=lambda model: None, lr=0.1, updates=1):
    """The same training written out: gradient of the mean loss, ``change`` it, subtract lr times it."""
    model = TinyModel(dropout=0.0)
    for i in range(steps):
        for _ in range(updates):
            model.zero_grad()
            seen = model.loss(batch_at(i))
            (seen.objective / seen.count).backward()
            change(model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= lr * parameter.grad
    return model


def assert_close(one, two):
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, rtol=1e-5, atol=1e-7)


def test_the_schema_is_the_constructor():
    defaults = describe("learning.trainer", "Trainer").defaults()
    assert defaults == vars(Trainer())
    assert defaults == {
        **{"steps": 1000, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        **{"schedule": "cosine", "warmup": 0.05, "clip": 1.0, "eval_every": None, "patience": None},
        **{"checkpoint_every": None, "select": "best"},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "trainer.steps must be at least 1, not 0"),
        ({"lr": -1.0}, "trainer.lr must be above 0"),
        ({"clip": 0.0}, "trainer.clip must be above 0"),
        ({"warmup": 1.5}, "trainer.warmup must be a fraction"),
        ({"weight_decay": -0.1}, "trainer.weight_decay must be at least 0"),
        ({"eval_every": 0}, "trainer.eval_every must be at least 1"),
        ({"select": "median"}, "trainer.select must be 'best' or 'last'"),
        ({"optimizer": "adamv"}, "Did you mean 'adam"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Trainer(**options)


def test_plain_steps_are_gradient_descent():
    assert_close(run_plain(5)[0], by_hand(5))


def test_backprop_from_the_registry_trains_the_same():
    assert_close(run_plain(3, rule=RULES.build("backprop"))[0], by_hand(3))


@pytest.mark.parametrize("clip", [0.01, 0.5, 100.0])
def test_clipping_is_torchs(clip):
    expected = by_hand(5, lambda model: clip_grad_norm_(model.parameters(), clip))
    assert_close(run_plain(5, trainer={"clip": clip})[0], expected)


def test_a_norm_just_above_the_threshold_is_clipped():
    norms = []
    by_hand(1, lambda model: norms.append(float(clip_grad_norm_(model.parameters(), 1e9))))
    clip = 0.9 * norms[0]
    expected = by_hand(1, lambda model: clip_grad_norm_(model.parameters(), clip))
    assert_close(run_plain(1, trainer={"clip": clip})[0], expected)


def test_rate_follows_warmup_and_schedule():
    _, report = run_plain(40, trainer={"schedule": "linear", "warmup": 0.25, "eval_every": 1, "lr": 0.5}, schedule=None)
    got = [row["lr"] for row in report.curve if row["split"] == "train"]
    want = [0.5 * (i + 1) / 10 for i in range(10)] + [0.5 * (1 - i / 30) for i in range(30)]
    assert got == pytest.approx(want)
    custom = SCHEDULES.build("linear", final=0.5)
    _, report = run_plain(2, schedule=custom, trainer={"eval_every": 1})
    assert [row["lr"] for row in report.curve if row["split"] == "train"] == pytest.approx([0.1, 0.075])


class Recorder(Strategy):
    """Notes every hook with what it can see there."""

    name = "recorder"

    def __init__(self, model, calls):
        self.model, self.calls = model, calls

    def weight(self):
        return self.model.stages[1].linear.weight.detach().clone()

    def batch(self, batch):
        self.calls.append(("batch", len(batch), self.weight(), None))
        return batch

    def loss(self, base):
        self.calls.append(("loss", None, self.weight(), None))

        def doubled(x, batch):
            self.calls.append(("objective", len(batch), self.weight(), None))
            seen = base(x, batch)
            return Loss(2 * seen.objective, seen.reported, seen.count)

        return doubled

    def gradient(self, model, batch):
        self.calls.append(("gradient", len(batch), self.weight(), model.stages[1].linear.weight.grad.clone()))
        for parameter in model.parameters():
            parameter.grad *= 3


def test_strategy_hooks_come_in_the_contracts_order():
    model, calls = TinyModel(dropout=0.0), []
    start = model.stages[1].linear.weight.detach().clone()
    run_plain(2, model=model, strategy=Recorder(model, calls), trainer={"clip": 0.05})
    assert [name for name, *_ in calls] == ["batch", "loss", "objective", "gradient"] * 2
    assert all(weight.equal(start) for _, _, weight, _ in calls[:4])  # the weights move after the last hook
    assert not calls[4][2].equal(start)
    assert all(size in (16, None) for _, size, _, _ in calls)

    def change(model):  # the loss doubled, then the gradient tripled, then clipped
        for parameter in model.parameters():
            parameter.grad *= 6
        clip_grad_norm_(model.parameters(), 0.05)

    assert_close(model, by_hand(2, change))
    reference = by_hand(0)
    reference.loss(batch_at(0)).objective.backward()
    seen = calls[3][3]
    torch.testing.assert_close(seen, 2 * reference.stages[1].linear.weight.grad / 16)  # not yet clipped


def test_a_wrapped_loss_does_not_enter_the_reported_one():
    model = TinyModel(dropout=0.0)
    _, wrapped = run_plain(1, model=model, strategy=Recorder(model, []))
    _, plain = run_plain(1)
    assert wrapped.curve[0]["loss"] == plain.curve[0]["loss"]


def test_a_strategy_that_leaves_the_loss_alone_is_not_asked_for_it():
    given = []

    class Asks(Reference):
        def step(self, model, batch, *, loss=None, update=None):
            given.append(loss)
            return super().step(model, batch, loss=loss, update=update)

    run_plain(1, rule=Asks(), strategy=Strategy())
    assert given == [None]


class Twice(Rule):
    """Interleaves: fills, asks for a weight step, fills again from the new weights."""

    name = "twice"

    def step(self, model, batch, *, loss=None, update=None):
        rule = Reference()
        update(rule.step(model, batch))
        return rule.step(model, batch)


def test_an_interleaving_rule_steps_twice():
    assert_close(run_plain(3, rule=Twice())[0], by_hand(3, updates=2))


def test_low_precision_sees_weights_that_changed_within_a_step():
    """Autocast caches bfloat16 copies of the weights; after an update the rule must compute with the new ones."""
    seen = []

    class Peek(Rule):
        name = "peek"

        def step(self, model, batch, *, loss=None, update=None):
            rule = Reference()
            report = rule.step(model, batch)
            update(report)
            seen.append(model(batch).detach())
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                seen.append(model(batch).detach())
            return rule.step(model, batch)

    model, _ = run_plain(1, rule=Peek(), precision="bf16", trainer={"lr": 1.0})
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].equal(seen[1])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_bf16_is_close_to_float32_but_not_it():
    rough, exact = run_plain(3, precision="bf16")[0], run_plain(3)[0]
    weights = zip(rough.parameters(), exact.parameters(), strict=True)
    assert max(float((a - b).abs().max().detach()) for a, b in weights) > 1e-6
    for one, two in zip(rough.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.02)


def test_evaluation_does_not_disturb_training():
    results = []
    for every in (1, 7, 60):
        model, report = fit(trainer={"eval_every": every, "select": "last"})
        results.append((model_tensors(model), report.curve[-1]["primary"]))
    for tensors, value in results[1:]:
        assert_same_tensors(tensors, results[0][0])
        assert value == results[0][1]


def test_same_seed_same_metrics_other_seed_other_metrics():
    def clockless(report):
        return [{key: value for key, value in row.items() if key != "seconds"} for row in report.curve]

    one, two, other = (clockless(fit(seed=seed)[1]) for seed in (3, 3, 4))
    assert one == two
    assert one != other


def scripted(values):
    """An evaluation that answers ``values`` in turn."""
    left = iter(values)
    return lambda model: {"primary": next(left)}


def test_best_weights_are_restored():
    values = [0.1, 0.5, 0.3, 0.5, 0.2, 0.4]
    weights, at = {}, []

    def note(step, report):
        at.append(step)

    def watch(model):
        weights[at[-1]] = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
        return {"primary": values[len(weights) - 1]}

    model, report = fit(evaluate=watch, on_step=note, trainer={"eval_every": 10})
    assert at == list(range(1, 61))
    assert (report.best_step, report.best_value, report.stopped_by) == (20, 0.5, "steps")
    assert_same_tensors(model_tensors(model), weights[20])
    weights.clear()
    model, report = fit(evaluate=watch, on_step=note, trainer={"eval_every": 10, "select": "last"})
    assert report.best_step == 20
    assert_same_tensors(model_tensors(model), weights[60])
    weights.clear()
    _, report = fit(evaluate=watch, on_step=note, trainer={"eval_every": 10}, higher_is_better=False)
    assert (report.best_step, report.best_value) == (10, 0.1)


def test_early_stop_counts_evaluations_without_improvement():
    _, report = fit(evaluate=scripted([0.1, 0.5, 0.5, 0.4, 0.9, 0.9]), trainer={"eval_every": 10, "patience": 2})
    assert (report.steps, report.best_step, report.stopped_by) == (40, 20, "patience")
    _, report = fit(evaluate=scripted([0.1, 0.5, 0.5, 0.6, 0.5, 0.9]), trainer={"eval_every": 10, "patience": 2})
    assert (report.steps, report.best_step, report.stopped_by) == (60, 60, "steps")


def test_a_held_out_value_that_is_not_finite_never_wins():
    _, report = fit(evaluate=scripted([math.nan, 0.2, math.inf, 0.1, 0.1, 0.1]), trainer={"eval_every": 10})
    assert (report.best_step, report.best_value) == (20, 0.2)
    assert len(report.warnings) == 2
    assert "step 10" in report.warnings[0]
    _, report = fit(evaluate=scripted([math.nan] * 3))
    assert (report.best_step, report.best_value) == (None, None)


def test_the_report_counts_what_was_seen():
    _, report = fit(trainer={"eval_every": 25})
    assert (report.steps, report.samples, report.tokens) == (60, 60 * 16, 60 * 16 * 3)
    assert report.samples_per_second == report.samples / report.seconds > 0
    assert report.tokens_per_second == report.tokens / report.seconds
    assert report.evaluation_seconds > 0
    assert set(report.scalars) == {"objective"}
    assert [row["step"] for row in report.curve if row["split"] == "held_out"] == [25, 50, 60]
    assert [row["step"] for row in report.curve if row["split"] == "train"][:3] == [2, 4, 6]


def test_tokens_are_those_under_the_mask():
    def masked(i):
        batch = batch_at(i)
        mask = torch.ones(16, 3, dtype=torch.bool)
        mask[:, 2] = i % 2 == 0
        return type(batch)(batch.x, batch.y, mask)

    _, report = run_plain(4, batches=masked)
    assert report.tokens == 2 * 16 * 3 + 2 * 16 * 2


def test_the_training_row_is_the_mean_since_the_last_one():
    losses = []
    _, report = run_plain(20, on_step=lambda step, seen: losses.append(seen.mean), trainer={"eval_every": 20})
    rows = [row for row in report.curve if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert [row["loss"] for row in rows] == pytest.approx([sum(losses[i : i + 2]) / 2 for i in range(0, 20, 2)])


def test_frozen_parameters_stay():
    model = TinyModel(dropout=0.0)
    model.stages[0].linear.weight.requires_grad_(False)
    before = model.stages[0].linear.weight.clone()
    run_plain(2, model=model)
    assert before.equal(model.stages[0].linear.weight)


def test_a_rule_that_cannot_train_the_model_says_why():
    class Picky(Reference):
        def supports(self, model):
            return "it has no spikes"

    with pytest.raises(UsageError, match="rule 'reference' cannot train this model: it has no spikes"):
        run_plain(1, rule=Picky())


def test_the_rule_is_prepared_once_before_the_first_step():
    calls = []

    class Prepared(Reference):
        def prepare(self, model):
            calls.append("prepare")

        def step(self, model, batch, *, loss=None, update=None):
            calls.append("step")
            return super().step(model, batch, loss=loss, update=update)

    run_plain(2, rule=Prepared())
    assert calls == ["prepare", "step", "step"]
