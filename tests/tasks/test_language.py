"""Language tasks: windows against a loop, codecs against Python's own, counts against the published ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from neurons.errors import DataError, UsageError
from neurons.specs import IGNORE
from tasks import TASKS
from tasks.codec import BytePairs, Bytes, Characters, build_codec
from tasks.language import Corpus, LanguageTask, stream, windows
from tasks.metrics import TextCounts, bits_per_byte, language_metrics
from tasks.task import Split

TEXT = "To be, or not to be: that is the question.\n  Ça va? 你好 \U0001f600\r\n\tyes\n\n" * 3


@pytest.mark.parametrize(("length", "context", "stride"), [(50, 8, 8), (49, 8, 8), (41, 8, 3), (9, 8, 1), (5, 8, 2)])
def test_windows_count_every_symbol_once_from_the_longest_context_there_is(length, context, stride):
    tokens = np.random.default_rng(0).integers(1, 9, length)
    inputs, targets = windows(tokens, context=context, stride=stride)
    assert targets.dtype == np.int64
    seen = []
    for row, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        start = min(row * stride, length - 1 - len(x))
        assert x.tolist() == tokens[start : start + len(x)].tolist()
        for place, target in enumerate(y):
            if target != IGNORE:
                assert target == tokens[start + place + 1]
                seen.append(start + place + 1)
                if row and start == row * stride:
                    assert place >= len(x) - stride
    assert seen == list(range(1, length))
    assert stream(Split(inputs, targets)).tolist() == tokens.tolist()


def test_a_stride_beyond_the_context_would_skip_symbols():
    for stride in (0, 9):
        with pytest.raises(UsageError, match="stride"):
            windows(np.arange(1, 50), context=8, stride=stride)
        with pytest.raises(UsageError, match="stride"):
            TASKS.build("stdlib", context=8, stride=stride)


@pytest.mark.parametrize("unit", ["bytes", "characters", "bpe"])
def test_every_codec_writes_and_reads_any_text(unit):
    codec = build_codec(unit, TEXT, vocabulary=300)
    ids = codec.encode(TEXT)
    assert ids.dtype == np.int32
    assert ids.min() > 0
    assert ids.max() < codec.size
    assert codec.decode(ids) == TEXT
    assert "".join(codec.stream(iter(ids))) == TEXT
    assert sum(len(codec.pieces[i]) for i in ids) == len(TEXT.encode())
    assert all("�" not in piece for piece in codec.stream(iter(ids)))
    assert len(codec.encode("")) == 0


def test_characters_are_those_of_the_training_text_and_others_are_unknown():
    codec = Characters("hello\n")
    assert codec.size == 2 + len(set("hello\n"))
    assert codec.encode("hölle").tolist() == [*codec.encode("h"), 1, *codec.encode("lle")]
    with pytest.raises(UsageError, match="'!', 'ö', which is not among the 5 characters of training"):
        codec.prompt("hölle!")
    assert Bytes().prompt("ö").tolist() == [0xC3 + 1, 0xB6 + 1]


def test_byte_pairs_are_those_of_the_library_whatever_the_length_of_the_text():
    codec = BytePairs(TEXT, vocabulary=300)
    assert codec.size <= 300
    assert len(codec.encode(TEXT)) < len(TEXT.encode())
    assert codec.encode("that is").tolist() == codec.tokenizer.encode("that is").ids
    long = TEXT * 1000  # cut at ends of lines, and cached
    assert codec.decode(codec.encode(long)) == long
    again = BytePairs(TEXT, vocabulary=300)
    assert again.encode(long).tolist() == codec.encode(long).tolist()
    no_line = "x" * 200_000
    assert codec.decode(codec.encode(no_line)) == no_line
    assert codec.decode(codec.encode("a [PAD] b")) == "a [PAD] b"


def test_a_damaged_tokenizer_is_made_again_and_an_unreadable_one_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    first = BytePairs(TEXT, vocabulary=280).encode(TEXT).tolist()
    path = next(tmp_path.glob("bytepairs-*.json"))
    path.write_bytes(path.read_bytes()[:-9])
    assert BytePairs(TEXT, vocabulary=280).encode(TEXT).tolist() == first
    monkeypatch.setattr("tasks.codec.cached_bytes", lambda name, make: b'{"version": "of another library"}')
    with pytest.raises(DataError, match=r"cannot be read.*Delete it"):
        BytePairs(TEXT, vocabulary=280)
    with pytest.raises(UsageError, match="257"):
        BytePairs(TEXT, vocabulary=100)


def test_byte_pairs_learn_nothing_from_other_text_than_training():
    tokenizer = BytePairs("ab" * 50, vocabulary=400)
    assert tokenizer.size < 300
    assert len(tokenizer.encode("zzzz")) == 4
    assert tokenizers.__version__


def test_metrics_of_a_text():
    counts = TextCounts(bytes=100, words=20)
    told = language_metrics(50.0, 25, counts)
    assert told["bits_per_byte"] == pytest.approx(50 / math.log(2) / 100)
    assert told["nats_per_token"] == 2
    assert told["token_ppl"] == pytest.approx(math.exp(2))
    assert told["word_ppl"] == pytest.approx(math.exp(2.5))
    assert language_metrics(1e6, 2, counts)["word_ppl"] == math.inf
    # a uniform guess at bytes costs eight bits
    assert bits_per_byte(100 * math.log(256), counts) == pytest.approx(8.0)


class Made(LanguageTask):
    """Three texts."""

    name = "made"

    def __init__(self, texts, *, unit="bytes", context=16, stride=None):
        super().__init__(unit=unit, vocabulary=300, context=context, stride=stride)
        self.texts = texts

    def corpus(self, data_dir):
        return Corpus(*self.texts, "made up", "made up")


def test_bits_per_byte_and_per_word_are_of_the_text_whatever_its_symbols_are():
    found = []
    for unit in ("bytes", "characters", "bpe"):
        data = Made((TEXT, TEXT, TEXT), unit=unit).load()
        first = len(data.codec.pieces[data.test.inputs[0][0]])
        assert data.test.counts == TextCounts(len(TEXT.encode()) - first, len(TEXT.split()))
        told = Made((TEXT,) * 3).score(data.test, nats=100.0)
        assert told["bits_per_byte"] == pytest.approx(100 / math.log(2) / (len(TEXT.encode()) - first))
        found.append(told["word_ppl"])
    assert found == pytest.approx([math.exp(100 / len(TEXT.split()))] * 3)


def test_sliding_windows_are_for_the_test_alone_and_told():
    data = Made((TEXT,) * 3, context=16, stride=4).load()
    assert len(data.test) > 3 * len(data.held_out)
    assert "test in windows of 16 bytes every 4" in data.protocol
    assert "chunks of 16 bytes" in Made((TEXT,) * 3).load().protocol
    assert stream(data.test).tolist() == stream(data.held_out).tolist()


def test_characters_that_training_never_saw_are_counted_and_told():
    assert (
        "2 of their characters never seen in training"
        in Made(("abc\n" * 9, "abc", "abxcx"), unit="characters").load().protocol
    )


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_corpus_is_told(empty):
    texts = ["some text", "some text", "some text"]
    texts[empty] = " \n"
    with pytest.raises(DataError, match=r"'made': the .* is empty"):
        Made(texts).load()
    texts[empty] = "x"
    with pytest.raises(DataError, match="fewer than 2 symbols"):
        Made(texts).load()


def test_the_standard_library_is_capped_and_whole_modules_are_held_out():
    one, all_but_one = TASKS.build("stdlib", megabytes=0.3), TASKS.build("stdlib", megabytes=1.0)
    small, large = one.corpus(None), all_but_one.corpus(None)
    size = sum(len(text.encode()) for text in (small.train, small.held_out, small.test))
    assert 0.29e6 < size < 0.31e6
    assert len(large.train) > len(small.train)
    assert large.held_out not in large.train
    assert small == one.corpus(None)
    with pytest.raises(UsageError, match="megabytes"):
        TASKS.build("stdlib", megabytes=0)


def test_an_installation_without_source_text_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("tasks.suites.stdlib.sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="keeps none"):
        TASKS.build("stdlib").load()


@pytest.mark.data
def test_wikitext_counts_words_as_it_is_published(real_data):
    counts = TASKS.build("wikitext103-partial", unit="bytes").load(real_data)
    assert counts.held_out.counts.words == 217_646
    assert counts.test.counts.words == 245_569


@pytest.mark.data
def test_what_is_not_there_names_what_is(real_data):
    if list(Path(real_data, "wikitext").glob("wikitext-103-raw-v1/train-*")):
        pytest.skip("the whole of it is here")
    for name in ("wikitext103", "wikitext2"):
        with pytest.raises(DataError, match=r"split 'train' is missing.*wikitext103-partial") as caught:
            TASKS.build(name).load(real_data)
        assert "\n" not in str(caught.value)


@pytest.mark.data
def test_shakespeare_is_nanogpts(real_data):
    data = TASKS.build("shakespeare").load(real_data)
    corpus = TASKS.build("shakespeare").corpus(real_data)
    whole = corpus.train + corpus.held_out + corpus.test
    assert (len(whole), len(set(whole)), len(corpus.train)) == (1_115_394, 65, 1_003_854)
    assert data.codec.size == 67
    assert data.test.counts.bytes == 55_769
