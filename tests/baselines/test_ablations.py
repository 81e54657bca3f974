"""What a comparison says of each component: its arithmetic, its words, its table in page and README."""

import json
import re

import pytest
from report_documents import full
from scipy import stats
from test_rows import row

from baselines import readme_table, report
from baselines.ablations import ablations, outcome
from baselines.compare import _folder, compare
from baselines.config import Resolved, resolve_grid
from baselines.document import load_compare
from baselines.report_table import components_table, reference
from baselines.rows import full_models, make_row, pairs, verdict
from neurons.errors import DataError

ACCURACY = {"name": "accuracy", "higher_is_better": True}
LOSS = {"name": "bits_per_byte", "higher_is_better": False}
FULL = {0: 0.90, 1: 0.92, 2: 0.91}
ROWS = {
    "m / r": FULL,
    "m - worse / r": {0: 0.80, 1: 0.83, 2: 0.80},
    "m - better / r": {0: 0.94, 1: 0.95, 2: 0.96},
    "m - same / r": {0: 0.91, 1: 0.90, 2: 0.92, 7: 0.1},
}


def rows(values=ROWS):
    return [row(label, found) for label, found in values.items()]


def refused(label):
    return make_row(label, [(Resolved({}, {}, label), None)], unsupported="refused")


def component(block, name):
    return next(one for one in block["components"] if one["component"] == name)


def test_each_difference_is_scipys_paired_t_over_the_shared_seeds():
    block = ablations(rows(), ACCURACY, ["absent"])
    assert block["left_out"] == ["absent"]
    for label, values in list(ROWS.items())[1:]:
        one = component(block, label[4:-4])
        told = stats.ttest_rel([FULL[s] for s in (0, 1, 2)], [values[s] for s in (0, 1, 2)])
        interval = told.confidence_interval()
        assert one["n"] == 3
        assert one["difference"] == pytest.approx(sum(FULL[s] - values[s] for s in (0, 1, 2)) / 3)
        assert (one["low"], one["high"], one["p"]) == pytest.approx((interval.low, interval.high, told.pvalue))
        assert one["earns"] is bool(interval.low > 0)
        assert one["harms"] is bool(interval.high < 0)
        assert (one["full"], one["without"], one["rule"]) == ("m / r", label, "r")


def test_the_most_useful_comes_first_and_lower_may_be_better():
    block = ablations(rows(), ACCURACY)
    assert [one["component"] for one in block["components"]] == ["worse", "same", "better"]
    assert [outcome(one) for one in block["components"]] == [
        "earns its place",
        "interval around 0",
        "does harm",
    ]
    turned = ablations(rows(), LOSS)
    assert [one["component"] for one in turned["components"]] == ["better", "same", "worse"]
    assert component(turned, "better")["earns"]
    assert component(turned, "worse")["harms"]
    assert component(turned, "worse")["difference"] == component(block, "worse")["difference"]
    assert "better (−0.04 bits per byte) earns its place" in turned["verdict"]


def test_parameters_and_time_stand_for_both_sides():
    small = {"total": 9, "non_embedding": 7}
    without = row("m - part / r", FULL) | {"parameters": small, "train": {"seconds": 1.5}}
    one = component(ablations([row("m / r", FULL), without], ACCURACY), "part")
    assert one["parameters"] == {"full": None, "without": 7}
    assert one["train_seconds"] == {"full": 2.0, "without": 1.5}


def test_the_verdict_is_one_line_that_names_every_component():
    told = ablations(rows(ROWS | {"m - dull / r": ROWS["m - same / r"]}), ACCURACY)["verdict"]
    assert told == (
        "m / r: worse (+10.0 points) earns its place; same and dull have intervals around 0; "
        "better (−4.0 points) does harm"
    )
    several = ROWS | {"m - one / r": ROWS["m - worse / r"], "m - two / r": ROWS["m - worse / r"]}
    assert (
        "worse (+10.0 points), one (+10.0 points) and two (+10.0 points) earn their place;"
        in (ablations(rows(several), ACCURACY)["verdict"])
    )


def test_one_seed_judges_nothing_and_a_refused_component_comes_last():
    block = ablations(
        [*rows({label: {0: values[0]} for label, values in ROWS.items()}), refused("m - x / r")], ACCURACY
    )
    assert "fewer than two seeds" in block["verdict"]
    assert {outcome(one) for one in block["components"]} == {""}
    last = block["components"][-1]
    assert (last["component"], last["difference"], last["n"], last["earns"], last["harms"]) == (
        "x",
        None,
        None,
        False,
        False,
    )


def test_rules_are_judged_apart():
    other = {label.replace("/ r", "/ q"): values for label, values in ROWS.items()}
    block = ablations(rows(ROWS | other), ACCURACY)
    assert [one["rule"] for one in block["components"]] == ["r"] * 3 + ["q"] * 3
    assert block["verdict"].count(" / ") == 2
    assert "| worse | q |" in components_table({"primary": ACCURACY, "ablations": block})


def test_there_is_no_block_where_nothing_was_taken_away():
    assert ablations(rows({"m / r": FULL, "n / r": FULL}), ACCURACY) is None
    assert ablations(rows({"m - worse / r": FULL, "n / r": FULL}), ACCURACY) is None
    assert full_models(["m / r", "m - a / r", "n - a / r", "m - a / q"]) == {"m - a / r": "m / r"}


def test_a_row_without_a_component_is_paired_with_its_full_model_only():
    known = rows(
        {"m / r": FULL, "m - a / r": FULL, "m - b / r": FULL, "n / r": FULL, "n - c / r": FULL, "k - c / r": FULL}
    )
    found = {(pair["a"], pair["b"]) for pair in pairs(known)}
    assert {pair for pair in found if "k - c / r" not in pair} == {
        ("m / r", "m - a / r"), ("m / r", "m - b / r"), ("m / r", "n / r"), ("n / r", "n - c / r"),
    }  # fmt: skip
    assert {("m / r", "k - c / r"), ("n / r", "k - c / r")} == {pair for pair in found if "k - c / r" in pair}


def document(primary=ACCURACY, more=()):
    table = [*rows(), *more]
    block = ablations(table, primary, ["absent"])
    made = full() | {"rows": table, "pairs": pairs(table), "ablations": block, "primary": primary, "curves": {}}
    return made | {"results": [], "requirements": [], "warnings": [], "verdict": verdict(made | {"rows": table})}


def test_the_comparisons_verdict_is_that_of_the_components_unless_other_models_ran():
    told = document()
    assert told["verdict"] == f"On listops-short, {told['ablations']['verdict']}."
    other = document(more=[row("n / r", ROWS["m - worse / r"])])
    assert "m / r is ahead of n / r by 10.0 points" in other["verdict"]
    alone = {"primary": ACCURACY, "task": {"name": "t"}, "rows": rows({"m - worse / r": FULL, "n / r": FULL})}
    assert "m - worse / r and n / r cannot be told apart" in verdict(alone)


def test_the_full_model_is_the_reference():
    assert reference(document(more=[row("n / backprop", FULL)])) == "m / r"


def test_the_page_has_a_line_for_each_component():
    told = document(more=[refused("m - <x> / r")])
    html = report.page(told)
    table = html[html.index('<table id="ablations">') : html.index("</table>")]
    lines = [re.sub(r"<[^>]+>", " ", line) for line in table.split("<tr")[2:]]
    assert [line.split(">", 1)[-1].split()[0] for line in lines] == ["m", "worse", "same", "better", "&lt;x&gt;"]
    assert "+10.0" in lines[1]
    assert "earns its place" in lines[1]
    low, high = (100 * component(told["ablations"], "worse")[end] for end in ("low", "high"))
    assert f"[+{low:.1f}, +{high:.1f}]" in lines[1]
    assert "n/a: refused" in lines[4]
    assert "Off in the full model already: absent." in html
    assert html.count(told["ablations"]["verdict"]) == 1
    ends = [float(x) for x in re.findall(r'class="bar" x1="([\d.]+)" x2="([\d.]+)"', table)[0]]
    assert 70 < ends[0] < ends[1] <= 134  # the whole interval is right of no difference
    assert 'id="ablations"' not in report.page(full())


def test_the_readme_lists_the_components_after_the_results(tmp_path):
    folder = tmp_path / "ablations"
    folder.mkdir()
    (tmp_path / "zebra.json").write_text(json.dumps(full()))
    for name in ("sst2", "digits"):
        (folder / f"{name}.json").write_text(json.dumps(document()))
    short = readme_table.summary(tmp_path)
    places = [short.index(part) for part in ("[zebra]", "what each component", "[digits]", "[sst2]")]
    assert places == sorted(places)
    text = readme_table.full(tmp_path)
    places = [text.index(part) for part in ("## zebra", "## digits, taken apart", "## sst2, taken apart")]
    assert places == sorted(places)
    table = text[places[2] :].split("\n\n")[2].splitlines()
    assert table[0] == "| component | difference, points | 95 % interval | n |  |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| worse", "| same", "| better"]
    assert table[2].startswith("| worse | +10.0 | [+")
    assert table[2].endswith(" | 3 | earns its place |")
    (folder / "sst2.json").write_text(json.dumps(full()))
    with pytest.raises(
        DataError, match=r"sst2\.json takes no model apart\. Write it again with: neurons compare --abl"
    ):
        readme_table.summary(tmp_path)


def test_folders_of_rows_have_plain_names(tmp_path):
    one = Resolved({"seed": 3}, {}, "neuronsv2:tiny:heads=1 - fast weights / predictive-coding:variant=zil")
    name = _folder(tmp_path, one).name
    assert name == "neuronsv2-tiny-heads-1-without-fast-weights-predictive-coding-variant-zil-s3"
    assert _folder(tmp_path, Resolved({"seed": 0}, {}, "mlp / backprop")).name == "mlp-backprop-s0"


def test_a_model_is_taken_apart_from_recipe_to_document(tmp_path):
    """The attention is off in this recipe, so the model refuses to be without its rhythm."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[task]\nname = "digits"\n[trainer]\nsteps = 2\nbatch_size = 8\n'
        "[models.neuronsv2]\nwidth = 16\nlayers = 1\n[rules.backprop]\n"
    )
    sets = ["model.attention=none"]
    grid = resolve_grid(recipe=str(recipe), seeds=2, ablate=True, sets=sets, threads=1)
    assert grid.left_out == ("attention", "fast weights")
    told = compare(grid, out=tmp_path / "c")
    assert load_compare(tmp_path / "c")["ablations"] == told["ablations"]
    found = {one["component"]: one for one in told["ablations"]["components"]}
    assert {name: one["n"] for name, one in found.items()} == {
        "rhythm": None, "delay line": 2, "apical gate": None,
    }  # fmt: skip
    assert "content_heads is about the attention" in next(
        r["unsupported"] for r in told["rows"] if r["label"] == "neuronsv2 - rhythm / backprop"
    )
    assert found["delay line"]["parameters"]["full"] > found["delay line"]["parameters"]["without"]
    assert {r["label"] for r in told["results"]} == {
        "neuronsv2 / backprop", "neuronsv2 - delay line / backprop",
    }  # fmt: skip
    assert compare(grid, out=tmp_path / "c", resume=True)["ablations"]["components"][0]["n"] == 2
