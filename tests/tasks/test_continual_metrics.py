"""Continual metrics against the five projects' definitions, each written out as its own code has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neurons.errors import UsageError
from tasks.continual.anytime import anytime
from tasks.continual.metrics import summarise

# --- the projects, literally -------------------------------------------------------------------------------------


def gem(result: Any, baseline: Any) -> dict[str, float]:
    """facebookresearch/GradientEpisodicMemory, metrics/metrics.py: confusion_matrix."""
    nt = len(result)
    acc = [result[t][t] for t in range(nt)]
    fin = result[nt - 1]
    bwt = [result[nt - 1][t] - acc[t] for t in range(nt)]
    fwt = [0.0] * nt
    for t in range(1, nt):
        fwt[t] = result[t - 1][t] - baseline[t]
    return {"acc": sum(fin) / nt, "bwt": sum(bwt) / nt, "fwt": sum(fwt) / nt}


def chaudhry(data: Any, baseline: Any) -> dict[str, float]:
    """facebookresearch/agem, compute_fgt (0-based T); BWT and FWT as in the GEM paper's equations 2 to 4."""
    num_tasks = data.shape[0]
    T = num_tasks - 1
    fgt = 0.0
    for i in range(T):
        fgt += np.max(data[:T, i]) - data[T, i]
    bwt = fwt = 0.0
    for i in range(1, num_tasks):  # 1 <= i <= T - 1, R_{T,i} - R_{i,i}
        bwt += data[num_tasks - 1, i - 1] - data[i - 1, i - 1]
    for i in range(2, num_tasks + 1):  # 2 <= i <= T, R_{i-1,i} - b_i
        fwt += data[i - 2, i - 1] - baseline[i - 1]
    acc = sum(data[T, i] for i in range(num_tasks)) / num_tasks
    return {"acc": acc, "forgetting": fgt / T, "bwt": bwt / T, "fwt": fwt / T}


def avalanche(data: Any, baseline: Any, counts: Any) -> dict[str, float]:
    """ContinualAI/avalanche: the plugin metrics fed event by event, as the training and evaluation loops do."""
    initial: dict[int, float] = {}
    last: dict[int, float] = {}
    start, before = dict(enumerate(baseline)), {}  # evaluation before any training
    stream_forgetting = stream_bwt = stream_accuracy = float("nan")
    for trained in range(len(data)):
        forgettings, bwts, right, seen = [], [], 0.0, 0
        for evaluated in range(len(data)):
            value = data[trained, evaluated]
            right, seen = right + value * counts[evaluated], seen + counts[evaluated]
            if trained == evaluated:
                initial[evaluated] = value
            else:
                last[evaluated] = value
            if evaluated == trained + 1:
                before[evaluated] = value
            if evaluated in initial and trained != evaluated:  # encountered, and evaluated again since
                forgettings.append(initial[evaluated] - last[evaluated])
                bwts.append(-(initial[evaluated] - last[evaluated]))
        stream_accuracy = right / seen
        if forgettings:
            stream_forgetting, stream_bwt = np.mean(forgettings), np.mean(bwts)
    forward = np.mean([before[k] - start[k] for k in before])
    return {"acc": stream_accuracy, "forgetting": stream_forgetting, "bwt": stream_bwt, "fwt": float(forward)}


def mammoth(results: Any, random_results: Any) -> dict[str, float]:
    """aimagelab/mammoth, utils/metrics.py: backward_transfer, forward_transfer, forgetting."""
    results = [list(row) for row in results]
    n_tasks = len(results)
    bwt = [results[-1][i] - results[i][i] for i in range(n_tasks - 1)]
    fwt = [results[i - 1][i] - random_results[i] for i in range(1, n_tasks)]
    maxx = np.max(np.array(results), axis=0)
    forgetting = [maxx[i] - results[-1][i] for i in range(n_tasks - 1)]
    mean = np.mean(results[-1])
    return {"acc": mean, "bwt": np.mean(bwt), "fwt": np.mean(fwt), "forgetting": np.mean(forgetting)}


def diaz(R: Any) -> dict[str, float]:
    """Diaz-Rodriguez et al. 2018, equations 1 to 5, indices from 1."""
    N = len(R)
    r = {(i, j): R[i - 1][j - 1] for i in range(1, N + 1) for j in range(1, N + 1)}
    a = sum(r[i, j] for i in range(1, N + 1) for j in range(1, N + 1) if i >= j) / (N * (N + 1) / 2)
    bwt = sum(r[i, j] - r[j, j] for i in range(2, N + 1) for j in range(1, i)) / (N * (N - 1) / 2)
    fwt = sum(r[i, j] for i in range(1, N + 1) for j in range(1, N + 1) if i < j) / (N * (N - 1) / 2)
    return {"acc": a, "bwt": bwt, "fwt": fwt, "rem": 1 - abs(min(bwt, 0)), "bwt_plus": max(bwt, 0)}


def matrices(count: int = 200) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 12, count)
    return [(rng.random((T, T)), rng.random(T), rng.integers(1, 500, T)) for T in sizes]


@pytest.mark.parametrize("project", ["gem", "chaudhry", "avalanche", "mammoth", "diaz"])
def test_agrees_with_the_project_on_200_random_matrices(project: Any) -> None:
    for R, b, counts in matrices():
        wanted = {
            "gem": lambda R=R, b=b: gem(R.tolist(), b.tolist()),
            "chaudhry": lambda R=R, b=b: chaudhry(R, b),
            "avalanche": lambda R=R, b=b, counts=counts: avalanche(R, b, counts),
            "mammoth": lambda R=R, b=b: mammoth(R, b),
            "diaz": lambda R=R: diaz(R),
        }[project]()
        found = summarise(R, untrained=b, convention=project, samples=counts.tolist())
        for key, value in wanted.items():
            assert found[key] == pytest.approx(value, abs=1e-6), key


def test_what_no_convention_changes() -> None:
    for R, b, _ in matrices(20):
        T = len(R)
        joint = 1 - b
        for convention in ("gem", "chaudhry", "avalanche", "mammoth", "diaz"):
            found = summarise(R, untrained=b, convention=convention, joint=joint)
            assert found["learning_accuracy"] == pytest.approx(sum(R[j, j] for j in range(T)) / T)
            assert found["aia"] == pytest.approx(sum(sum(R[i, : i + 1]) / (i + 1) for i in range(T)) / T)
            assert found["intransigence"] == pytest.approx(sum(joint[k] - R[k, k] for k in range(T)) / T)
            dr = diaz(R)
            assert (found["a_dr"], found["bwt_dr"]) == (pytest.approx(dr["acc"]), pytest.approx(dr["bwt"]))


def test_a_matrix_by_hand() -> None:
    """Two tasks; task 0 falls from .9 to .5, task 1 starts at .2 with .1 untrained and ends at .8."""
    R = [[0.9, 0.2], [0.5, 0.8]]
    found = summarise(R, untrained=[0.1, 0.1])
    for key, value in {"acc": 0.65, "bwt": -0.4, "fwt": 0.1, "forgetting": 0.4, "learning_accuracy": 0.85}.items():
        assert found[key] == pytest.approx(value)
    assert summarise(R, untrained=[0.1, 0.1], convention="gem")["bwt"] == pytest.approx(-0.2)


def test_the_maximum_of_forgetting_reads_the_rows_it_should() -> None:
    R = np.array([[0.5, 0.9, 0.0], [0.6, 0.4, 0.0], [0.7, 0.3, 0.8]])
    assert summarise(R)["forgetting"] == pytest.approx(((0.6 - 0.7) + (0.9 - 0.3)) / 2)
    assert summarise(R, convention="mammoth")["forgetting"] == pytest.approx((0.0 + (0.9 - 0.3)) / 2)


def test_what_is_undefined_is_none() -> None:
    R, b = np.full((3, 3), 0.5), np.full(3, 0.1)
    for convention in ("gem", "chaudhry", "avalanche", "mammoth", "diaz"):
        assert summarise(R, untrained=b, scenario="class", convention=convention)["fwt"] is None
        single = summarise([[0.7]], untrained=[0.1], convention=convention)
        assert single["acc"] == 0.7
        assert all(single[key] is None for key in ("bwt", "fwt", "forgetting", "rem", "bwt_dr"))
    assert summarise(R)["fwt"] is None
    assert summarise(R)["intransigence"] is None
    assert summarise(R, untrained=b, scenario="domain")["fwt"] == pytest.approx(0.4)


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "not square": (np.zeros((2, 3)), {}, r"square.*\(2, 3\)"),
    "a vector": (np.zeros(4), {}, r"square.*\(4,\)"),
    "empty": (np.zeros((0, 0)), {}, "square"),
    "ragged": ([[0.1], [0.2, 0.3]], {}, "equal length"),
    "nan above the diagonal": ([[0.1, np.nan], [0.2, 0.3]], {}, r"R\[0, 1\] is nan"),
    "percentages": ([[91.0, 10.0], [50.0, 90.0]], {}, r"R\[0, 0\] is 91.*between 0 and 1"),
    "negative": ([[0.5, 0.1], [-0.5, 0.9]], {}, r"R\[1, 0\]"),
    "short untrained": (np.zeros((2, 2)), {"untrained": [0.1]}, "untrained must hold 2"),
    "untrained in percent": (np.zeros((2, 2)), {"untrained": [10.0, 10.0]}, "untrained.*between 0 and 1"),
    "long joint": (np.zeros((2, 2)), {"joint": [0.1, 0.2, 0.3]}, "joint must hold 2"),
    "no samples": (np.zeros((2, 2)), {"samples": [0, 3]}, "positive counts"),
    "unknown convention": (np.zeros((2, 2)), {"convention": "mamoth"}, "'mamoth'. Did you mean 'mammoth'"),
    "unknown scenario": (np.zeros((2, 2)), {"scenario": "clas"}, "'clas'. Did you mean 'class'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_matrix_is_one_clear_line(case: str) -> None:
    R, options, said = BAD[case]
    with pytest.raises(UsageError, match=said) as caught:
        summarise(R, **options)
    assert "\n" not in str(caught.value)


# --- anytime -----------------------------------------------------------------------------------------------------


def test_anytime_by_hand() -> None:
    """Task 0 trained at points 0 and 1, task 1 at 2 to 4; task 0 dips to .2 and recovers to .6: the stability gap."""
    curve = [[0.5, np.nan], [0.9, np.nan], [0.2, 0.6], [0.4, 0.8], [0.6, 0.9]]
    found = anytime(curve, [0, 0, 1, 1, 1], window=2)
    assert found["aaa"] == pytest.approx((0.5 + 0.9 + 0.4 + 0.6 + 0.75) / 5)
    assert found["min_acc"] == pytest.approx(0.2)
    assert found["wc_acc"] == pytest.approx(0.5 * 0.9 + 0.5 * 0.2)
    assert found["windowed_forgetting"] == pytest.approx((0.7 + 0.0) / 2)
    assert found["windowed_plasticity"] == pytest.approx((0.4 + 0.2) / 2)
    assert anytime(curve, [0, 0, 1, 1, 1], window=3)["windowed_plasticity"] == pytest.approx((0.4 + 0.3) / 2)


def test_anytime_against_loops_over_every_pair() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        tasks, window = int(rng.integers(1, 5)), int(rng.integers(2, 6))
        during = np.sort(np.concatenate([np.arange(tasks), rng.integers(0, tasks, 12)]))
        curve = rng.random((len(during), tasks))
        lows, falls, rises = [], [], []
        for j in range(tasks):
            after = [curve[p, j] for p in range(len(during)) if during[p] > j]
            if j < tasks - 1:
                lows.append(min(after))
            mine = [curve[p, j] for p in range(len(during)) if during[p] >= j]
            pairs = [(m, n) for m in range(len(mine)) for n in range(m + 1, len(mine)) if n - m <= window - 1]
            falls.append(max([0.0] + [mine[m] - mine[n] for m, n in pairs]))
            rises.append(max([0.0] + [mine[n] - mine[m] for m, n in pairs]))
        found = anytime(curve, during, window=window)
        assert found["min_acc"] == (pytest.approx(np.mean(lows)) if lows else None)
        assert found["windowed_forgetting"] == pytest.approx(np.mean(falls))
        assert found["windowed_plasticity"] == pytest.approx(np.mean(rises))
        worst = curve[-1, -1] / tasks + (1 - 1 / tasks) * (np.mean(lows) if lows else 0)
        assert found["wc_acc"] == pytest.approx(worst)


@pytest.mark.parametrize(
    ("curve", "during", "options", "said"),
    [
        ([0.1, 0.2], [0, 0], {}, "shape"),
        ([[0.1], [0.2]], [0], {}, "shape"),
        ([[0.1, 0.2]], [2], {}, "0..1"),
        ([[0.1, 0.2], [0.1, 0.2]], [1, 0], {}, "must not fall"),
        ([[0.1, np.nan]], [1], {}, "fractions"),
        ([[0.1]], [0], {"window": 1}, "two points"),
    ],
)
def test_a_bad_curve_is_one_clear_line(curve: Any, during: Any, options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        anytime(curve, during, **options)
    assert "\n" not in str(caught.value)
