"""--ablate: which rows it makes, in which order, and with which options."""

from pathlib import Path

import pytest

from baselines.config import resolve, resolve_grid
from neurons import MODELS
from neurons.errors import UsageError

RECIPE = """
[task]
name = "digits"
[models.neuronsv2]
heads = 8
delay = 6
[models.transformer]
[models.mlp]
[rules.backprop]
[rules.predictive-coding]
"""
ROWS = '[compare]\nseeds = 2\nrows = ["neuronsv2 / backprop", "transformer / backprop"]\n'
OFF = "fast weights"
COMPONENTS = [name for name in MODELS.entry("neuronsv2").ablations if name != OFF]


@pytest.fixture
def recipe(tmp_path):
    def write(more=""):
        path = tmp_path / "mine.toml"
        path.write_text(RECIPE + more)
        return str(path)

    return write


def rows(rule="backprop", model="neuronsv2"):
    return [f"{model} / {rule}", *(f"{model} - {component} / {rule}" for component in COMPONENTS)]


def test_the_first_model_is_taken_apart_and_the_recipes_others_stay_away(recipe):
    grid = resolve_grid(recipe=recipe(ROWS), ablate=True)
    assert grid.labels == rows()
    assert grid.left_out == (OFF,)
    assert grid.seeds == (0, 1)
    assert len(grid.runs) == 2 * len(rows())
    both = resolve_grid(recipe=recipe(), ablate=True, controls=False)
    assert sorted(both.labels) == sorted(rows() + rows("predictive-coding"))
    assert both.labels[:2] == ["neuronsv2 / backprop", "neuronsv2 / predictive-coding"]


def test_the_recipes_first_row_says_which_model(recipe):
    more = '[compare]\nrows = ["neuronsv2 / predictive-coding", "mlp / backprop"]\n'
    path = recipe(more)
    text = Path(path).read_text().replace("[models.neuronsv2]\nheads = 8\ndelay = 6\n", "") + "[models.neuronsv2]\n"
    Path(path).write_text(text)
    assert resolve_grid(recipe=path, seeds=1, ablate=True, controls=False).labels == rows("predictive-coding")


def test_every_row_differs_from_the_first_in_its_component_only(recipe):
    grid = resolve_grid(recipe=recipe(ROWS), seeds=1, ablate=True, sets=["neuronsv2.delay=9"])
    full, *without = grid.runs
    entry = MODELS.entry("neuronsv2")
    options = full.config["model"]["options"]
    assert (options["heads"], options["delay"]) == (8, 9)
    for run, component in zip(without, COMPONENTS, strict=True):
        taken = entry.ablation(component, options)
        assert run.config["model"]["options"] == options | taken
        assert {run.origin[f"model.{key}"] for key in taken} == {f"without {component}"}
        rest = {key: value for key, value in run.config.items() if key != "model"}
        assert rest == {key: value for key, value in full.config.items() if key != "model"}
    assert without[COMPONENTS.index("rhythm")].config["model"]["options"]["content_heads"] == 8
    assert without[COMPONENTS.index("delay line")].config["model"]["options"]["delay"] == 0


def test_named_models_stay_and_presets_are_taken_apart_too(recipe):
    grid = resolve_grid(recipe=recipe(ROWS), models=["neuronsv2:tiny", "mlp"], rules=["backprop"], seeds=1, ablate=True)
    assert grid.labels == [*rows(model="neuronsv2:tiny"), "mlp / backprop"]
    rhythm = next(run for run in grid.runs if "rhythm" in run.label)
    assert rhythm.config["model"]["options"]["content_heads"] == rhythm.config["model"]["options"]["heads"] == 2


def test_controls_belong_to_the_full_model(recipe):
    grid = resolve_grid(recipe=recipe(), rules=["predictive-coding"], seeds=1, ablate=True)
    control = "neuronsv2 / predictive-coding:variant=zil"
    assert [run.label for run in grid.runs if run.control] == [control]
    assert [label for label in grid.labels if label != control] == rows("predictive-coding")


def test_fast_weights_are_taken_away_where_a_recipe_has_them():
    grid = resolve_grid(recipe="mqar", seeds=1, ablate=True)
    assert grid.left_out == ()
    options = next(run for run in grid.runs if OFF in run.label).config["model"]["options"]
    assert {key: options[key] for key in ("fast_rule", "tau_fast", "fast_lag")} == {
        "fast_rule": "off",
        "tau_fast": 0.1,
        "fast_lag": 0,
    }


def test_one_component_can_be_named_like_any_part(recipe):
    path = recipe()
    grid = resolve_grid(recipe=path, models=["neuronsv2", "neuronsv2 - rhythm"], rules=["backprop"], seeds=1)
    assert grid.labels == ["neuronsv2 / backprop", "neuronsv2 - rhythm / backprop"]
    run = resolve(recipe=path, model="neuronsv2 - rhythm", rule="backprop", sets=["model.heads=16"])
    assert run.config["model"]["options"]["content_heads"] == 16
    assert run.label == "neuronsv2 - rhythm / backprop"


def test_nothing_to_take_away_is_one_clear_line(recipe):
    with pytest.raises(UsageError, match="fast weights is off already in 'neuronsv2', nothing is taken away"):
        resolve(recipe=recipe(), model="neuronsv2 - fast weights")
    with pytest.raises(UsageError, match="'mlp' declares no components"):
        resolve_grid(recipe=recipe(), models=["mlp"], ablate=True)
    with pytest.raises(UsageError, match="named twice"):
        resolve_grid(recipe=recipe(), models=["neuronsv2", "neuronsv2 - rhythm"], ablate=True)
