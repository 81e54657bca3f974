"""neurons bench: what is measured, how it is told, how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from documents import one_document

from baselines.bench.setting import SUITES
from cli.bench_text import bench_text

ROOT = Path(__file__).parents[2]
TINY = ("--lengths", "8,16", "--mixers", "coherence", "--phase", "forward", "--minutes", "0.02", "--repeats", "1")


def row(name: str, length: int, seconds: float | None, ratio: float | None, **more: object) -> dict:
    where = {"group": "operation", "form": "causal", "phase": "train", "length": length, "name": name}
    found = {"seconds": seconds, "least_seconds": seconds, "runs": 3, "reference": "sdpa", "ratio": ratio}
    return where | found | {"skipped": None} | more


def document(*bars: dict, rows: dict | None = None) -> dict:
    speed = [
        row("sdpa", 512, 0.004, 1.0), row("coherence", 512, 0.001, 4.0), row("coherence", 4096, 0.0081, None),
        row("sdpa", 4096, None, None, skipped="predicted 27 s a call, 6 s left of the budget"),
    ]  # fmt: skip
    return {
        "suites": ["speed"],
        "setting": {"threads": 1, "batch": 1, "heads": 1, "width": 64, "device": "cpu"},
        "rows": {"speed": speed} if rows is None else rows,
        "bars": list(bars),
        "seconds": 1.0,
        "env": {"cpu": "a processor", "gpu": None, "torch": "2", "cores": 2},
        "load": 0.4,
    }


def bar(met: bool | None, measured: float | None) -> dict:
    return {"suite": "speed", "text": "45 times as fast", "bar": 45, "measured": measured, "met": met}


@pytest.fixture
def measured(monkeypatch):
    """Put a document in the place of the measurement; gives the suites and the setting that were asked for."""
    asked = []

    def put(found: dict) -> list:
        def bench(suites, setting, progress):
            asked.append((suites, setting))
            return found

        monkeypatch.setattr("baselines.bench.suite.bench", bench)
        return asked

    return put


def test_a_real_run_prints_one_document_and_writes_the_same(neurons, tmp_path):
    place = tmp_path / "bench.json"
    result = neurons("bench", *TINY, "--json", "--out", str(place))
    found = one_document(result)
    assert found["kind"] == "bench"
    assert {(one["name"], one["length"]) for one in found["rows"]["speed"]} == {
        (name, n) for name in ("coherence", "sdpa") for n in (8, 16)
    }
    assert all(one["skipped"] or one["seconds"] > 0 for one in found["rows"]["speed"])
    assert found["env"]["threads"] == found["setting"]["threads"] == 1
    assert place.read_text(encoding="utf-8") == result.stdout
    assert "1/4  operations, causal forward at 8  (at most " in result.stderr


def test_the_text_has_a_table_for_each_form_and_says_what_is_missing(neurons):
    result = neurons("bench", *TINY)
    assert result.exit_code == 0, result.stderr
    for words in (
        "operation causal forward, per call",
        "operation full forward, per call",
        "1 thread",
        "1 x 64 channels",
    ):
        assert words in result.stdout
    assert "16,384" not in result.stdout  # no bar on what nobody asked for


def test_numbers_stand_under_their_length_with_the_ratio_beside_them():
    lines = bench_text(document(), None).splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("operation causal train"))
    assert lines[table + 1].split() == ["512", "4,096"]
    assert lines[table + 2].split() == ["coherence", "1", "ms", "4x", "8.1", "ms"]
    assert lines[table + 3].split() == ["sdpa", "4", "ms", "-"]
    assert "  sdpa: predicted 27 s a call, 6 s left of the budget (speed, causal train at 4,096)" in lines


def test_a_busy_machine_is_told():
    assert "busy" not in bench_text(document(), None)
    assert "busy" not in bench_text(document() | {"load": None}, None)
    assert "warning: the machine was busy, 8.8 processes on 2 cores" in bench_text(document() | {"load": 8.84}, None)


def test_a_narrow_terminal_keeps_the_longest_lengths():
    rows = [row("coherence", 2**k, 1e-6 * 2**k, 2.0) for k in range(9, 17)]
    text = bench_text(document(rows={"speed": rows}), 50)
    assert max(len(line) for line in text.splitlines() if "|" not in line and "coherence" in line) <= 50
    assert "65,536" in text
    assert "512" not in text.split("operation")[1]


def test_every_other_suite_has_its_text():
    fit = {"group": "operation", "form": "causal", "cost": "train time", "name": "coherence", "lengths": [1024, 16384]}
    timed = {"seconds": 0.002, "ratio": 5.99, "skipped": None, "reference": "r"}
    at = {"output": "label", "batch": 8}
    rate = {"flops_per_second": 1.234e11, "bytes_per_second": 7.5e9}
    span = {"exponent": 1.008, "low": 0.99, "high": 1.03}
    rows = {
        "memory": [row("coherence", 512, None, None, saved_bytes=2048, peak_bytes=3 * 2**20)],
        "scaling": [fit | {"exponent": 1.049, "low": 1.01, "high": 1.2, "skipped": None}],
        "model": [timed | {"name": "neuronsv2", "output": "label", "length": 64, "parameters": 208_000}],
        "decode": [
            timed
            | {
                "name": "gpt",
                "length": 128,
                "parameters": 793_000,
                "state_bytes": 5 * 2**20,
                "ratio": 1,
                "bytes_per_token": 4096.0,
                "tokens_per_second": 512.5,
            },
            timed
            | {
                "name": "latent",
                "length": 128,
                "parameters": 817_000,
                "state_bytes": 2**20,
                "bytes_per_token": 992.0,
                "tokens_per_second": 256.5,
            },
        ],
        "resonance": [
            {"what": "ceilings", "name": "copy", "macs": 0.0, **rate, "skipped": None},
            timed | {"what": "networks", "name": "resonance_net", **at, "length": 512, "macs": 2.745e9, **rate},
            {"what": "exponents", "name": "resonance_net", **at, "skipped": None, **span},
        ],
        "dendrites": [timed | {"name": "sparse", "phase": "train"}],
        "fast-weights": [timed | {"name": "chunked", "phase": "train", "rule": "delta"}],
        "peers": [
            {"name": "favor+", "form": "full", "length": 1024, "error": 0.021, "skipped": None},
            timed | {"name": "coherence", "form": "full", "phase": "forward", "length": 64},
        ],
    }
    assert {*rows, "speed"} == set(SUITES)
    text = bench_text(document(rows=rows), None)
    told = ("label 8 samples", "resonance_net", "label, 8 x 512", "123", "n^1.01 [0.99, 1.03]")
    for words in (
        "2 KiB",
        "3 MiB",
        "1.05  [1.01, 1.20]  1,024 to 16,384",
        "neuronsv2 (208 k)  2 ms 5.99x",
        "0.021",
        *told,
    ):
        assert words in text
    assert [line.split() for line in text.splitlines() if line.startswith(("gpt (793", "latent"))] == [
        ["gpt", "(793", "k)", "512"], ["latent", "(817", "k)", "256", "5.99x"],
        ["gpt", "(793", "k)", "5", "MiB"], ["latent", "(817", "k)", "1", "MiB"],
        ["gpt", "(793", "k)", "4096"], ["latent", "(817", "k)", "992"],
    ]  # fmt: skip
    assert [line.split() for line in text.splitlines() if line.startswith(("sparse", "chunked"))] == [
        ["sparse", "train", "2", "ms", "5.99x"], ["chunked", "delta,", "train", "2", "ms", "5.99x"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bars", "code", "told"),
    [
        ([bar(True, 57.0)], 0, ""),
        ([bar(True, 57.0), bar(False, 44.9)], 3, "Error: missed: 45 times as fast (measured 44.9)"),
        ([bar(None, None)], 3, "Error: not measured: 45 times as fast. Try more --minutes"),
        ([], 2, "Error: --check: no bar is stated for these suites at this shape."),
    ],
)
def test_check_exits_3_unless_every_bar_is_met(neurons, measured, bars, code, told):
    measured(document(*bars))
    result = neurons("bench", "--check")
    assert result.exit_code == code
    assert told in result.stderr
    assert neurons("bench").exit_code == 0
    for one in bars:
        word = {True: "met", False: "MISSED", None: "not measured"}[one["met"]]
        assert any(line.startswith(word) and one["text"] in line for line in result.stdout.splitlines())


def test_suites_run_in_their_order_once_and_all_says_how_long_it_takes(neurons, measured, monkeypatch):
    monkeypatch.setattr("cli.bench._peers_installed", lambda: True)
    asked = measured(document())
    neurons("bench")
    neurons("bench", "memory", "speed", "memory")
    result = neurons("bench", "all", "--minutes", "1")
    assert [suites for suites, _ in asked] == [["speed"], ["speed", "memory"], list(SUITES)]
    assert f"{len(SUITES)} suites, at most {len(SUITES)} min: speed, memory" in result.stderr


def test_all_leaves_out_peers_that_are_not_installed(neurons, measured, monkeypatch):
    asked = measured(document())
    monkeypatch.setattr("cli.bench._peers_installed", lambda: False)
    result = neurons("bench", "all")
    assert asked[0][0] == [name for name in SUITES if name != "peers"]
    assert "peers left out: pip install 'neurons[peers]'" in result.stderr


def test_options_reach_the_setting(neurons, measured):
    asked = measured(document())
    neurons(
        "bench", "--lengths", "64,8,64", "--mixers", "gamma,softmax", "--phase", "train", "--heads", "2",
        "--width", "16", "--batch", "3", "--threads", "2", "--repeats", "4", "--minutes", "0.5", "--device", "auto",
    )  # fmt: skip
    setting = asked[0][1]
    assert (setting.lengths, setting.mixers, setting.phases) == ((8, 64), ("gamma", "softmax"), ("train",))
    assert (setting.heads, setting.width, setting.batch, setting.threads) == (2, 16, 3, 2)
    assert (setting.repeats, setting.minutes) == (4, 0.5)
    assert setting.device in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sped",), "unknown suite 'sped'. Did you mean 'speed'? Known: speed, memory"),
        (("--mixers", "gama"), "unknown mixer 'gama'. Did you mean 'gamma'?"),
        (("--mixers", ""), "name one mixer and one phase"),
        (("--phase", "trian"), "unknown phase 'trian'. Did you mean 'train'?"),
        (("--lengths", "8,x"), "--lengths takes whole numbers such as 512,4096, not '8,x'"),
        (("--lengths", ","), "lengths are at least 1"),
        (("--device", "cuda:99"), "cuda"),
        (("--out", "nowhere/bench.json"), "no folder 'nowhere' for --out"),
        (("--mixers", "coherence", "--phase", "decode"), "nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_one_line(neurons, arguments, told):
    result = neurons("bench", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert told in result.stderr


def test_help_describes_every_suite_without_torch():
    program = (
        "import sys\nfrom cli.main import group\n"
        "try:\n    group.main(['bench', '--help'], prog_name='neurons')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    for name, about in SUITES.items():
        assert any(line[: 1 + len(about.split())] == [name, *about.split()] for line in lines), name
