"""One run from configuration to result, comparisons, and matched budgets, on the digits."""

import json

import pytest
import torch

from baselines.compare import compare
from baselines.config import resolve, resolve_grid
from baselines.document import gather, load_compare
from baselines.experiment import default_out, evaluate, run
from baselines.match import match
from baselines.plan import plan
from baselines.setup import load_task, setup
from neurons.errors import RunError, UsageError

TINY = ["trainer.steps=6", "trainer.batch_size=32"]


def tiny(**keywords):
    return resolve(task="digits", model="mlp:width=8", sets=TINY, **keywords)


def comparable(result):
    """A result without what a clock or a memory counter says."""
    return {key: value for key, value in result.items() if key not in {"train", "inference", "memory", "env", "curve"}}


def test_a_run_is_complete_reproducible_and_can_be_evaluated_again(tmp_path):
    first = run(tiny(rule="backprop").config, out=tmp_path / "a")
    again = run(tiny(rule="backprop").config, out=tmp_path / "b")
    assert comparable(first) == comparable(again)
    assert json.loads((tmp_path / "a" / "result.json").read_text())["status"] == "complete"
    assert set(first["floors"]) == {"majority", "logistic-regression", "nearest-prototype"}
    assert len(first["predictions"]) == first["task"]["rows"]["test"]
    assert evaluate(tmp_path / "a")["primary"]["value"] == first["primary"]["value"]
    assert evaluate(tmp_path / "a", "held_out")["primary"]["value"] == first["metrics"]["held_out"]
    with pytest.raises(RunError, match="already holds a run"):
        run(tiny(rule="backprop").config, out=tmp_path / "a")
    with pytest.raises(UsageError, match="cannot resume"):
        run(tiny(rule="backprop", seed=5).config, out=tmp_path / "a", resume=True)


def test_the_primary_value_is_the_accuracy_of_the_predictions(tmp_path):
    config = tiny(rule="predictive-coding").config
    found = run(config, out=tmp_path / "a")
    labels = load_task(config)[1].test.labels
    assert found["primary"]["value"] == pytest.approx((labels == found["predictions"]).mean())
    assert found["rule"]["local"]
    assert 0 < found["metrics"]["cosine_to_backprop"] < 1
    assert found["metrics"]["rule_stationarity"] >= 0


@pytest.mark.parametrize("options", ["variant=ipc:nudge=none", "parametrisation=mupc"])
def test_rules_that_move_or_mark_the_model_run_to_their_result_and_are_evaluated_again(tmp_path, options):
    rule = f"predictive-coding:{options}:steps=3:precision=1.0"
    found = run(tiny(rule=rule).config, out=tmp_path / "a")
    assert 0 < found["metrics"]["cosine_to_backprop"] <= 1
    assert evaluate(tmp_path / "a")["primary"]["value"] == found["primary"]["value"]


def test_another_seed_is_another_model_on_the_same_split(tmp_path):
    a, b = setup(tiny(seed=0).config), setup(tiny(seed=1).config)
    weights = zip(a.model.parameters(), b.model.parameters(), strict=True)
    assert any(not torch.equal(x, y) for x, y in weights)
    assert a.data.split_hash == b.data.split_hash


def test_a_plan_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = plan(tiny(rule="backprop"))
    assert told["steps"] == 6
    assert told["stages"][-1]["output_shape"] == [32, 10]
    assert told["origin"]["trainer.steps"] == "flag"
    assert list(tmp_path.iterdir()) == []
    assert default_out(told["config"]).parts[:2] == ("runs", "digits")


def test_compare_writes_document_and_report_and_resumes(tmp_path):
    grid = resolve_grid(
        task="digits", models=["mlp:width=8"], rules=["backprop", "predictive-coding"], seeds=2, sets=TINY
    )
    out = tmp_path / "c"
    told = compare(grid, out=out, require=["backprop > predictive-coding"])
    assert [row["n"] for row in told["rows"]] == [2, 2, 2]
    assert [row["control"] for row in told["rows"]] == [False, False, True]
    exact = {row["rule"]: row["cosine_to_backprop"]["end"] for row in told["rows"]}
    assert exact["predictive-coding:variant=zil:nudge=None"] == pytest.approx(1.0, abs=1e-5)
    assert exact["predictive-coding"] < 0.9999
    assert load_compare(out) == json.loads((out / "compare.json").read_text())
    assert told["verdict"] in (out / "report.html").read_text()
    with pytest.raises(RunError, match="not empty"):
        compare(grid, out=out)
    stamp = next(out.glob("runs/*/result.json")).stat().st_mtime_ns
    again = compare(grid, out=out, resume=True)
    assert next(out.glob("runs/*/result.json")).stat().st_mtime_ns == stamp
    assert again["rows"][0]["value"] == told["rows"][0]["value"]
    other = resolve_grid(task="digits", models=["mlp:width=4"], rules=["backprop"], seeds=2, sets=TINY)
    with pytest.raises(UsageError, match="another comparison"):
        compare(other, out=out, resume=True)
    gathered = gather(sorted(out.glob("runs/*backprop-s*")))
    assert gathered["rows"][0]["value"]["mean"] == pytest.approx(told["rows"][0]["value"]["mean"])


def test_jobs_change_nothing_but_the_clock(tmp_path):
    grid = resolve_grid(task="digits", models=["mlp:width=8"], rules=["backprop"], seeds=2, sets=TINY, threads=1)
    alone = compare(grid, out=tmp_path / "a")
    together = compare(grid, out=tmp_path / "b", jobs=2)
    assert alone["rows"][0]["value"] == together["rows"][0]["value"]


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path):
    grid = resolve_grid(
        task="digits", models=["mlp:width=8"], rules=["backprop", "predictive-coding:inference_rate=1e9"], seeds=1,
        sets=TINY, controls=False,
    )  # fmt: skip
    told = compare(grid, out=tmp_path / "c")
    assert [row["n"] for row in told["rows"]] == [1, 0]
    assert "diverges" in told["rows"][1]["unsupported"]


def test_matched_parameters_are_near_and_matched_flops_equal():
    grid = resolve_grid(
        task="digits",
        models=["transformer:width=32", "mlp"],
        rules=["backprop", "predictive-coding"],
        seeds=1,
        sets=TINY,
        controls=False,
    )
    runs, data = list(grid.runs), load_task(grid.runs[0].config)[1]
    matched, budget = match(runs, data, "params", None)
    for one in matched:
        counts = setup(one.config).model.parameter_counts()["non_embedding"]
        assert counts == pytest.approx(budget["value"], rel=0.1)
    reference = [resolve(task="digits", model="mlp:width=10", rule="backprop", sets=TINY)]
    assert match(reference, data, "params", None)[0][0].config["model"]["options"]["width"] == 10
    by_flops, _ = match(runs, data, "flops", None)
    transformer, settling, mlp, _ = (one.config["trainer"]["steps"] for one in by_flops)
    assert transformer == 6
    assert settling < transformer < mlp
    by_time, told = match(runs[:1], data, "time", 0.01)
    assert told["value"] == pytest.approx(0.6)
    assert by_time[0].config["trainer"]["steps"] >= 1
    with pytest.raises(UsageError, match="--match takes"):
        match(runs, data, "luck", None)


def test_gathered_runs_are_told_apart_by_the_options_in_which_they_differ(tmp_path):
    for width in (4, 8):
        config = resolve(task="digits", model=f"mlp:width={width}", rule="backprop", sets=TINY).config
        run(config, out=tmp_path / str(width))
    told = gather([tmp_path / "4", tmp_path / "8"])
    assert [row["label"] for row in told["rows"]] == ["mlp:width=4 / backprop", "mlp:width=8 / backprop"]
    with pytest.raises(UsageError, match="have seed 0"):
        gather([tmp_path / "4", tmp_path / "4"])


def test_minutes_choose_steps_and_a_resume_asks_for_the_same_run(tmp_path):
    first = run(tiny(rule="backprop").config, out=tmp_path / "a", minutes=0.001)
    again = run(tiny(rule="backprop").config, out=tmp_path / "a", minutes=0.001, resume=True)
    assert again == json.loads(json.dumps(first))
    with pytest.raises(UsageError, match="'seed' is 0 there"):
        run(tiny(rule="backprop", seed=1).config, out=tmp_path / "a", minutes=0.001, resume=True)


def test_a_model_that_cannot_be_built_is_a_usage_error():
    with pytest.raises(UsageError, match="cannot be built"):
        setup(resolve(task="digits", model="mlp:width=-3").config)
    with pytest.raises(UsageError, match="at least 0"):
        resolve(task="digits", model="mlp", seed=-1)
