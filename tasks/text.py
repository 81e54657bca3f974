"""Text as symbols: bytes, and a word-level byte-pair encoding trained offline on the training split alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from neurons.specs import InputSpec
from tasks.cache import cached_arrays, cached_bytes, key
from tasks.data import Rows, text_hash
from tasks.task import Split

PAD, UNKNOWN = 0, 1
BYTE_SYMBOLS = 257
# A word, a clitic ("n't", "'s"), or a run of one punctuation mark. Treebank text and plain text come out alike.
WORDS = r"\w+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m|t)\b|\w+|([^\w\s_])\1*"
_CHUNK = 2000


def encode_bytes(texts: Sequence[str], max_length: int) -> list[np.ndarray]:
    """UTF-8 bytes as ids 1..256 (0 pads), the first ``max_length`` of them; an empty text is one space."""
    return [np.frombuffer((text.encode() or b" ")[:max_length], dtype=np.uint8).astype(np.int32) + 1 for text in texts]


def decode_bytes(ids: np.ndarray) -> str:
    """The text of ``encode_bytes``; padding is skipped, a character cut at the end becomes U+FFFD."""
    ids = np.asarray(ids)
    return (ids[ids > 0] - 1).astype(np.uint8).tobytes().decode(errors="replace")


class WordPieces:
    """Byte-pair encoding inside lower-cased words (Sennrich et al. 2016). Id 0 pads, 1 is an unknown character.

    A piece that begins a word carries a leading ``▁``. ``vocabulary`` bounds the number of symbols; a small corpus may
    give fewer, ``size`` is what it gave. Trained on ``texts`` alone and cached by their hash.
    """

    def __init__(self, texts: Sequence[str], *, vocabulary: int) -> None:
        version = tokenizers.__version__
        self.key = key(kind="bpe", words=WORDS, vocabulary=vocabulary, texts=text_hash(texts), version=version)
        stored = cached_bytes(f"bpe-{self.key}.json", lambda: _train(texts, vocabulary).to_str().encode())
        self.tokenizer = Tokenizer.from_str(stored.decode())
        self.tokenizer.encode_special_tokens = True  # a literal "[PAD]" in a text is text
        self.size: int = self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """(t,) int32 ids of each text, the first ``max_length``; a text without a word is one unknown. Cached."""
        name = f"ids-{key(bpe=self.key, texts=text_hash(texts), max_length=max_length)}.npz"
        return unpack(cached_arrays(name, lambda: pack(self._encode(texts, max_length))))

    def _encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        rows: list[np.ndarray] = []
        for start in range(0, len(texts), _CHUNK):  # an Encoding is far larger than its ids
            encodings = self.tokenizer.encode_batch_fast(list(texts[start : start + _CHUNK]))
            rows += [np.array(encoding.ids[:max_length] or [UNKNOWN], dtype=np.int32) for encoding in encodings]
        return rows


def as_tokens(
    parts: dict[str, Rows], *, level: Literal["word", "byte"], vocabulary: int, max_length: int
) -> tuple[dict[str, Split], InputSpec]:
    """``parts`` as token splits: word pieces learned on ``parts["train"]`` alone, or bytes."""
    if level == "byte":
        encode, size = encode_bytes, BYTE_SYMBOLS
    else:
        pieces = WordPieces(parts["train"].texts, vocabulary=vocabulary)
        encode, size = pieces.encode, pieces.size
    splits = {name: Split(encode(part.texts, max_length), part.labels, part.texts) for name, part in parts.items()}
    return splits, InputSpec("tokens", length=max_length, size=size, pad=PAD)


def pack(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Ragged rows as one flat array and their lengths."""
    return {"flat": np.concatenate(rows), "lengths": np.array([len(row) for row in rows], dtype=np.int64)}


def unpack(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The rows of ``pack``, as views."""
    ends = np.cumsum(arrays["lengths"])
    flat = arrays["flat"]
    return [flat[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]


def _train(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=["[PAD]", "[UNK]"],
        limit_alphabet=256,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer
