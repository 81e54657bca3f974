"""The adapter for lm-evaluation-harness against symbol-by-symbol torch, against the harness's own windows, and through
its own ``simple_evaluate`` on local files. Skipped where lm-eval is not installed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.utils import get_rolling_token_windows  # noqa: E402

from baselines import harness as adapter  # noqa: E402
from baselines.harness import RunLM  # noqa: E402
from neurons import MODELS  # noqa: E402
from neurons.errors import DataError, UsageError  # noqa: E402
from neurons.specs import Batch, InputSpec, OutputSpec  # noqa: E402
from tasks.codec import BytePairs, Bytes, Characters  # noqa: E402
from tasks.language import TextData  # noqa: E402

TEXT = "the cat sat on the mat.\nthe dog sat on the log.\n" * 40
ROWS = {
    "lambada_openai": ("test", [{"text": "the cat sat on the mat"}, {"text": "the dog sat on the log"}]),
    "piqa": (
        "validation",
        [{"goal": "sit", "sol1": "on the mat", "sol2": "on the cat", "label": 0},
         {"goal": "log", "sol1": "the", "sol2": "sat", "label": 1}],
    ),
    "winogrande": (
        "validation",
        [{"sentence": "the cat sat on the _ on the log.", "option1": "mat", "option2": "dog", "answer": "1"}],
    ),
    "hellaswag": (
        "validation",
        [{"activity_label": "sitting", "ctx_a": "the cat", "ctx_b": "it", "label": "2",
          "endings": ["sat", "sat on", "sat on the mat", "log"]}],
    ),
}  # fmt: skip
GROUPS = ("lambada", "piqa", "winogrande", "hellaswag")


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))


def made(name="gpt", codec=None, *, length=16):
    """A model far from uniform and the data it would have learned, as ``load_run`` gives them."""
    codec = codec or Characters(TEXT)
    input, output = InputSpec("tokens", length, codec.size), OutputSpec("token", codec.size)
    torch.manual_seed(0)
    model = MODELS.build(name, input=input, output=output, width=16, layers=1)
    with torch.no_grad():
        model(Batch(torch.zeros(1, 1).long(), torch.zeros(1, 1).long()))
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    data = TextData(None, None, None, input=input, output=output, source="", protocol="", codec=codec)
    return SimpleNamespace(model=model, data=data, device=torch.device("cpu"), task=SimpleNamespace(name="text"))


def answers(setup) -> RunLM:
    return RunLM(setup, setup.data)


def asked(*arguments) -> list[Instance]:
    return [Instance("loglikelihood", {}, one, 0) for one in arguments]


def by_hand(setup, before, ids):
    """Of every symbol of ``ids`` (what precedes it, it, log p), each read alone."""
    setup.model.eval()
    total, greedy = 0.0, True
    never = torch.tensor([not piece for piece in setup.data.codec.pieces])
    for place, symbol in enumerate(ids):
        read = before[place] if isinstance(before, dict) else [*before, *ids[:place]]
        x = torch.tensor([read])
        with torch.no_grad():
            logits = setup.model(Batch(x, x))[0, -1]
        total += float(logits.log_softmax(-1)[symbol])
        greedy &= int(logits.masked_fill(never, -math.inf).argmax()) == symbol
    return total, greedy


@pytest.mark.parametrize("name", ["gpt", "neuronsv2", "resonance_net", "neuromanifold_gpt"])
def test_a_texts_log_likelihood_is_that_of_its_symbols_read_one_by_one(name):
    setup = made(name)
    pairs = [("the cat", " sat"), ("on ", "the"), ("a", "t"), ("", "mat.")]
    found = answers(setup).loglikelihood(asked(*pairs), disable_tqdm=True)
    for (context, text), (nats, greedy) in zip(pairs, found, strict=True):
        codec = setup.data.codec
        expected = by_hand(setup, codec.encode(context or "\n").tolist(), codec.encode(text).tolist())
        if context.endswith(" "):  # the harness moves it; characters are the same either way, but one more is asked
            expected = by_hand(setup, codec.encode(context[:-1]).tolist(), codec.encode(" " + text).tolist())
        assert (nats, greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1])


def test_greedy_is_told():
    setup = made()
    lm, context = answers(setup), "the cat"
    (text,) = lm.generate_until([Instance("generate_until", {}, (context, {"until": [], "max_gen_toks": 3}), 0)])
    (right, wrong) = lm.loglikelihood(asked((context, text), (context, text[:2] + "qz"[text[2] == "q"])), True)
    assert right[1]
    assert not wrong[1]
    assert right[0] > wrong[0]


def test_a_context_longer_than_the_models_is_cut_on_the_left():
    setup = made()
    codec, long = setup.data.codec, "the dog sat on the log and the cat sat on the"
    (found,) = answers(setup).loglikelihood(asked((long, " mat")), disable_tqdm=True)
    ids = codec.encode(long + " mat").tolist()
    expected = by_hand(setup, ids[-17:-4], ids[-4:])  # 16 symbols are read in all
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    (other,) = answers(setup).loglikelihood(asked(("x" + long, " mat")), disable_tqdm=True)
    assert other[0] == pytest.approx(found[0], abs=1e-5)


def test_every_symbol_of_a_text_longer_than_the_model_reads_sees_half_a_window():
    setup = made()
    codec, before, text = setup.data.codec, "the dog sat on", " the log. the cat sat on the mat. the dog"
    (found,) = answers(setup).loglikelihood(asked((before, text)), disable_tqdm=True)
    whole, first = codec.encode(before + text).tolist(), len(before)
    # windows of 16 that begin 8 before the text, 8 apart, the last moved back to end with it
    starts, reads = [*range(first - 8, len(whole) - 17, 8), len(whole) - 17], {}
    for place in range(first, len(whole)):
        start = next(s for s in starts if place <= s + 16)
        reads[place - first] = whole[start:place]
    assert min(map(len, reads.values())) == 8
    assert found[0] == pytest.approx(by_hand(setup, reads, whole[first:])[0], abs=1e-4)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 40])
def test_a_whole_text_is_read_in_the_harness_own_windows(size):
    setup = made()
    lm, text = answers(setup), TEXT[5 : 5 + size]
    ids = lm.tok_encode(text)
    expected = 0.0
    for inputs, predicted in get_rolling_token_windows(ids, lm.eot_token_id, 16, 1):
        before = inputs[: len(inputs) - len(predicted) + 1]
        expected += by_hand(setup, before, predicted)[0]
    assert lm.loglikelihood_rolling(asked((text,)))[0] == pytest.approx(expected, abs=1e-4)


def test_requests_do_not_disturb_each_other():
    lm = answers(made())
    pairs = [("the cat", " sat"), ("the dog sat on the log. the", " mat"), ("a", "t"), ("on", " the mat. the log. the")]
    together = lm.loglikelihood(asked(*pairs), disable_tqdm=True)
    lm.rows = 1
    for pair, found in zip(pairs, together, strict=True):
        assert lm.loglikelihood(asked(pair), disable_tqdm=True)[0][0] == pytest.approx(found[0], abs=1e-4)


def test_text_goes_on_as_sample_draws_it_and_ends_at_any_stop():
    from baselines.sampling import Choice, sample

    setup = made("neuronsv2")
    lm, codec = answers(setup), setup.data.codec
    free = sample(setup.model, codec, codec.encode("the").tolist(), length=30, choice=Choice(0.0), seed=0).text
    request = ("the", {"until": ["never", free[6:9]], "max_gen_toks": 30})
    assert lm.generate_until([Instance("generate_until", {}, request, 0)]) == [free.partition(free[6:9])[0]]
    assert len(lm.generate_until([Instance("generate_until", {}, ("", {"max_gen_toks": 4}), 0)])[0]) == 4


def test_text_goes_on_behind_a_context_longer_than_the_models_as_behind_its_end():
    lm = answers(made())
    long, options = "the dog sat on the log and the cat sat on the", {"max_gen_toks": 5}
    first, second = (Instance("generate_until", {}, (context, options), 0) for context in (long, long[-16:]))
    assert lm.generate_until([first]) == lm.generate_until([second])


@pytest.mark.parametrize("codec", [Bytes, lambda: BytePairs(TEXT, vocabulary=280)])
def test_other_codecs(codec):
    setup = made(codec=codec())
    lm = answers(setup)
    (found,) = lm.loglikelihood(asked(("the cat", " sat é")), disable_tqdm=True)
    whole, first = lm.tok_encode("the cat sat é"), len(lm.tok_encode("the cat"))
    assert found[0] == pytest.approx(by_hand(setup, whole[:first], whole[first:])[0], abs=1e-4)
    assert not lm.strange


# Through the harness itself


@pytest.fixture
def run(monkeypatch, tmp_path):
    """``harness`` on a model that is not trained, with the four tasks' folders alone for an index."""
    setup, root = made(length=32), Path(lm_eval.__file__).parent / "tasks"
    monkeypatch.setattr(adapter, "load_run", lambda path: setup)
    config = SimpleNamespace(config={"precision": "float32", "data_dir": str(tmp_path / "data")})
    monkeypatch.setattr(adapter, "RunDirectory", lambda path: config)
    manager = TaskManager(include_defaults=False, include_path=[str(root / name) for name in GROUPS])
    return lambda *names, **options: adapter.harness(Path("run"), names, manager=manager, **options)


def put(folder: Path, split: str, rows: list[dict]) -> None:
    folder.mkdir(parents=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_lambada_hellaswag_piqa_and_winogrande_by_name_on_local_files(run, tmp_path, capsys):
    folders = {"lambada_openai": "", "piqa": "default", "winogrande": "winogrande_xl", "hellaswag": ""}
    for name, (split, rows) in ROWS.items():
        put(tmp_path / "data" / name / folders[name], split, rows)
    found = run(*ROWS)
    assert {name: told["samples"] for name, told in found["tasks"].items()} == {
        name: len(rows) for name, (_, rows) in ROWS.items()
    }
    assert all(told["data"].startswith("local:") for told in found["tasks"].values())
    assert capsys.readouterr().out == ""
    setup = made(length=32)
    lm = answers(setup)
    # LAMBADA by hand: perplexity of the last words; PIQA by hand: the likelier answer
    words = lm.loglikelihood(asked(("the cat sat on the", " mat"), ("the dog sat on the", " log")), True)
    lambada = found["tasks"]["lambada_openai"]["metrics"]
    assert lambada["perplexity"]["value"] == pytest.approx(math.exp(-sum(nats for nats, _ in words) / 2), rel=1e-4)
    assert lambada["acc"]["value"] == sum(greedy for _, greedy in words) / 2
    assert lambada["perplexity"]["higher_is_better"] is False
    hits = 0
    for row in ROWS["piqa"][1]:
        pair = [(f"Question: {row['goal']}\nAnswer:", f" {row[key]}") for key in ("sol1", "sol2")]
        scores = [nats for nats, _ in lm.loglikelihood(asked(*pair), True)]
        hits += scores.index(max(scores)) == row["label"]
    assert found["tasks"]["piqa"]["metrics"]["acc"]["value"] == hits / 2
    assert run("lambada_openai", limit=1)["tasks"]["lambada_openai"]["samples"] == 1
    assert {"Q", ":"} <= set(found["never_seen"])


def test_a_task_of_ones_own_from_a_yaml_file(run, tmp_path):
    put(tmp_path / "own", "test", [{"page": "the cat sat on the mat."}, {"page": "the dog sat on the log. the cat"}])
    place = tmp_path / "own.yaml"
    place.write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/own/test.jsonl}}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: '{{page}}'\n"
        "metric_list:\n  - metric: bits_per_byte\n",
        encoding="utf-8",
    )
    found = run(str(place))["tasks"]["own"]["metrics"]["bits_per_byte"]["value"]
    lm = answers(made(length=32))
    pages = ["the cat sat on the mat.", "the dog sat on the log. the cat"]
    nats = sum(lm.loglikelihood_rolling(asked(*((page,) for page in pages))))
    assert found == pytest.approx(-nats / math.log(2) / sum(map(len, pages)), rel=1e-5)


def test_what_cannot_be_asked_is_one_line(run, monkeypatch, tmp_path):
    put(tmp_path / "data" / "hellaswag", "train", ROWS["hellaswag"][1])
    for names, kind, words in (
        (["helaswag"], UsageError, "no task 'helaswag'. Did you mean 'hellaswag'?"),
        (["nowhere.yaml"], UsageError, "no file 'nowhere.yaml'"),
        (["piqa"], DataError, "found no data for piqa: "),
        (["hellaswag"], DataError, "hellaswag has no validation*.jsonl (or .parquet)"),
    ):
        with pytest.raises(kind) as found:
            run(*names)
        assert words in str(found.value)
        assert "\n" not in str(found.value)
    no_text = SimpleNamespace(data=object(), task=SimpleNamespace(name="digits"))
    monkeypatch.setattr(adapter, "load_run", lambda path: no_text)
    with pytest.raises(UsageError, match="'digits', which is no text"):
        run("piqa")
