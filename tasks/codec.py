"""Running text as symbols and back: UTF-8 bytes, characters, or byte pairs learned on the training text alone.

Every symbol is a byte string, and a text's symbols joined are its UTF-8 bytes: nothing is lost.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from neurons.errors import DataError, UsageError
from tasks.cache import cache_dir, cached_arrays, cached_bytes, key
from tasks.data import text_hash

PAD = 0
_PIECE = 1 << 16  # characters that byte-pair encoding is given at a time


class Codec:
    """``pieces[i]``: the bytes of symbol i, empty for padding and the unknown symbol, which no text may hold.

    ``unit``: what a symbol is, for messages. ``unknown``: the id of what is not in the vocabulary, None if that cannot
    happen.
    """

    unit: str
    pieces: Sequence[bytes]
    unknown: int | None = None

    @property
    def size(self) -> int:
        """The number of symbols, padding among them."""
        return len(self.pieces)

    def encode(self, text: str) -> np.ndarray:
        """(t,) int32 ids of ``text``; characters that training never saw become ``unknown``."""
        raise NotImplementedError("abstract: a codec defines encode(text)")

    def prompt(self, text: str) -> np.ndarray:
        """``encode``, but UsageError naming the first character that is not in the vocabulary."""
        ids = self.encode(text)
        if self.unknown is not None and (ids == self.unknown).any():
            strange = sorted({text[i] for i in np.flatnonzero(ids == self.unknown)})
            told = ", ".join(repr(one) for one in strange[:5]) + (", ..." if len(strange) > 5 else "")
            raise UsageError(f"the prompt holds {told}, which is not among the {self.size - 2} characters of training")
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def stream(self, ids: Iterator[int]) -> Iterator[str]:
        """The text of ``ids`` as it comes, never a part of a character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for i in ids:
            yield decoder.decode(self.pieces[i])
        yield decoder.decode(b"", final=True)


class Bytes(Codec):
    """UTF-8 bytes as ids 1..256."""

    unit = "byte"

    def __init__(self) -> None:
        self.pieces = [b"", *(bytes([value]) for value in range(256))]

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) + 1


class Characters(Codec):
    """The characters of ``text``, sorted, as ids from 2; 1 is a character that it does not hold."""

    unit = "character"
    unknown = 1

    def __init__(self, text: str) -> None:
        self.points = np.unique(_points(text))
        self.pieces = [b"", b"", *(chr(point).encode() for point in self.points)]

    def encode(self, text: str) -> np.ndarray:
        points = _points(text)
        places = np.minimum(np.searchsorted(self.points, points), len(self.points) - 1)
        return np.where(self.points[places] == points, places + 2, self.unknown).astype(np.int32)


class BytePairs(Codec):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019) trained on ``text``, cached by hash.

    ``vocabulary`` bounds the number of symbols, of which 257 are padding and the bytes; a small text may give fewer.
    """

    unit = "piece"

    def __init__(self, text: str, *, vocabulary: int) -> None:
        if vocabulary < 257:
            raise UsageError(f"task.vocabulary needs 257 symbols or more (the bytes and padding), not {vocabulary}")
        version = tokenizers.__version__
        self.key = key(kind="byte-bpe", vocabulary=vocabulary, text=text_hash([text]), version=version)
        name = f"bytepairs-{self.key}.json"
        stored = cached_bytes(name, lambda: _trained(text, vocabulary).to_str().encode())
        try:
            self.tokenizer = Tokenizer.from_str(stored.decode())
        except Exception as error:  # tokenizers raises a plain Exception
            where = cache_dir() / name
            raise DataError(f"tokenizer {where} cannot be read ({error}). Delete it; it is trained again") from error
        self.tokenizer.encode_special_tokens = True  # a literal "[PAD]" in a text is text
        table = {symbol: byte for byte, symbol in _alphabet().items()}
        vocabulary_of = {i: piece for piece, i in self.tokenizer.get_vocab().items()}
        self.pieces = [b""]
        self.pieces += [bytes(table[symbol] for symbol in vocabulary_of[i]) for i in range(1, len(vocabulary_of))]

    def encode(self, text: str) -> np.ndarray:
        if len(text) <= _PIECE:
            return self._encode(text)
        name = f"bytepair-ids-{key(tokenizer=self.key, text=text_hash([text]))}.npz"
        return cached_arrays(name, lambda: {"ids": self._encode(text)})["ids"]

    def _encode(self, text: str) -> np.ndarray:
        # an Encoding is far larger than its ids, so a few texts at a time
        parts = list(_cut(text))
        found = [np.zeros(0, np.int32)]
        for start in range(0, len(parts), 16):
            encodings = self.tokenizer.encode_batch_fast(parts[start : start + 16])
            found += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return np.concatenate(found)


def build_codec(unit: Literal["characters", "bytes", "bpe"], text: str, *, vocabulary: int) -> Codec:
    """The codec of ``unit``; what it learns it learns from ``text``."""
    if unit == "bytes":
        return Bytes()
    return Characters(text) if unit == "characters" else BytePairs(text, vocabulary=vocabulary)


def _points(text: str) -> np.ndarray:
    """Code points of ``text``."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _cut(text: str) -> Iterator[str]:
    """``text`` in parts that end with a line where one ends in reach."""
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + _PIECE) + 1
        end = end if end > start else min(start + _PIECE, len(text))
        yield text[start:end]
        start = end


def _alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level pairs: itself, or one from U+0100 up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _trained(text: str, vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_cut(text), trainer=trainer)
    return tokenizer
