"""Bytes and word pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import Rows
from tasks.text import UNKNOWN, WordPieces, as_tokens, decode_bytes, encode_bytes, pack, unpack

CORPUS = ["the film is good , it is n't bad", "the plot is bad !!!", "it 's the good film", "good good bad"] * 5


def words(pieces: WordPieces, text: str) -> list[str]:
    return [pieces.tokenizer.id_to_token(i) for i in pieces.encode([text], 99)[0]]


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1))
def test_bytes_round_trip(text: str) -> None:
    (ids,) = encode_bytes([text], 10_000)
    assert ids.tolist() == [byte + 1 for byte in text.encode()]
    assert decode_bytes(ids) == text


def test_bytes_are_cut_and_never_empty() -> None:
    cut, empty = encode_bytes(["é" * 3, ""], 3)
    assert len(cut) == 3
    assert decode_bytes(cut) == "é\ufffd"
    assert decode_bytes(empty) == " "
    assert decode_bytes(np.append(encode_bytes(["ab"], 9)[0], [0, 0])) == "ab"


def test_frequent_words_are_one_piece_and_clitics_stand_apart() -> None:
    pieces = WordPieces(CORPUS, vocabulary=200)
    assert words(pieces, "The film isn't  good!!!") == ["▁the", "▁film", "▁is", "▁n't", "▁good", "▁!!!"]
    assert words(pieces, "the film is n't good !!!") == ["▁the", "▁film", "▁is", "▁n't", "▁good", "▁!!!"]
    assert words(pieces, "It's bad") == ["▁it", "▁'s", "▁bad"]


def test_a_piece_inside_a_word_is_not_the_piece_that_begins_one() -> None:
    pieces = WordPieces(CORPUS, vocabulary=200)
    assert "".join(words(pieces, "badgood")) == "▁badgood"
    assert words(pieces, "bad good") == ["▁bad", "▁good"]
    assert words(pieces, "badgood") != ["▁bad", "▁good"]


def test_pad_is_never_produced_and_foreign_characters_are_unknown() -> None:
    pieces = WordPieces(CORPUS, vocabulary=200)
    for text in ("[PAD] good", "[UNK]", "日本", "", "   ", "good 日本"):
        (ids,) = pieces.encode([text], 99)
        assert len(ids) > 0
        assert 0 not in ids
    assert pieces.encode(["日本", "  "], 99)[0].tolist()[-1] == UNKNOWN
    assert pieces.encode(["  "], 99)[0].tolist() == [UNKNOWN]


def test_the_vocabulary_is_bounded_and_length_is_cut() -> None:
    for vocabulary in (40, 60):
        pieces = WordPieces(CORPUS, vocabulary=vocabulary)
        assert pieces.size <= vocabulary
        assert max(ids.max() for ids in pieces.encode(CORPUS, 99)) < pieces.size
    assert [len(ids) for ids in pieces.encode(["good bad good bad"], 2)] == [2]


def test_training_again_gives_the_same_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    first = WordPieces(CORPUS, vocabulary=80)
    again = WordPieces(CORPUS, vocabulary=80)
    monkeypatch.setenv("NEURONS_CACHE", f"{tmp_path}/fresh")
    fresh = WordPieces(CORPUS, vocabulary=80)
    for other in (again, fresh):
        assert other.tokenizer.get_vocab() == first.tokenizer.get_vocab()
        for a, b in zip(other.encode(CORPUS, 99), first.encode(CORPUS, 99), strict=True):
            np.testing.assert_array_equal(a, b)


def test_pieces_are_learned_from_the_training_rows_alone() -> None:
    zeros = np.zeros(len(CORPUS), np.int64)
    test = Rows(["zebra zebra zebra"] * len(CORPUS), zeros)
    parts = {"train": Rows(CORPUS, zeros), "held_out": test, "test": test}
    splits, input = as_tokens(parts, level="word", vocabulary=300, max_length=16)
    assert input.size == WordPieces(CORPUS, vocabulary=300).size
    assert len(splits["test"].inputs[0]) > 3  # the word that only the test split knows falls to pieces
    assert splits["test"].texts is test.texts


def test_packed_rows_come_back() -> None:
    rows = [np.array([1, 2, 3]), np.array([4]), np.array([5, 6])]
    for row, back in zip(rows, unpack(pack(rows)), strict=True):
        np.testing.assert_array_equal(row, back)
