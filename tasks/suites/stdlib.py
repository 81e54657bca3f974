"""The source text of the Python standard library: real text that every machine which runs this already has."""

from __future__ import annotations

import hashlib
import math
import platform
import sysconfig
from pathlib import Path
from typing import Literal

from neurons.errors import DataError, UsageError
from tasks import TASKS
from tasks.language import Corpus, LanguageTask

# Tests are not installed everywhere, pydoc_data and encodings are tables; the rest is not Python's, or of one machine.
LEFT_OUT = ("test", "tests", "site-packages", "dist-packages", "__pycache__", "pydoc_data", "encodings")


def modules(root: Path) -> list[Path]:
    """Every module of the library at ``root``, sorted by its path there."""
    found = [path.relative_to(root) for path in root.rglob("*.py")]
    kept = [path for path in found if not {*LEFT_OUT} & {*path.parts} and not path.name.startswith("_sysconfigdata")]
    return sorted((path for path in kept if not path.parts[0].startswith("config-")), key=Path.as_posix)


@TASKS.register("stdlib")
class StandardLibrary(LanguageTask):
    """The next symbol of the Python standard library's own source text, as installed here; nothing is downloaded.

    Modules without tests and tables, in the order of their paths' sha256, the first ``megabytes`` of them (None: all,
    about 10); 5 % of the bytes are held out and 5 % are the test, whole modules. Another version of Python is another
    text: the split hash tells them apart. ``unit``: bytes, characters or bpe of ``vocabulary``; ``context`` symbols are
    read at most; ``stride`` None tests in chunks, a smaller one than the context slides.
    """

    def __init__(
        self,
        *,
        unit: Literal["characters", "bytes", "bpe"] = "bytes",
        vocabulary: int = 4096,
        context: int = 256,
        stride: int | None = None,
        megabytes: float | None = 4.0,
    ) -> None:
        super().__init__(unit=unit, vocabulary=vocabulary, context=context, stride=stride)
        self.megabytes = megabytes
        if megabytes is not None and not 0.01 <= megabytes < math.inf:
            raise UsageError(f"task.megabytes is 0.01 or more, or none for all, not {megabytes}. Try: task.megabytes=4")

    def corpus(self, data_dir: str | None) -> Corpus:
        root = Path(sysconfig.get_paths()["stdlib"])
        order = sorted(modules(root), key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
        texts, size = [], 0
        limit = None if self.megabytes is None else round(1e6 * self.megabytes)
        for path in order:
            if limit is not None and size >= limit:
                break
            text = (root / path).read_text(encoding="utf-8", errors="replace")
            if text.strip():
                texts.append(text[: None if limit is None else limit - size])
                size += len(text.encode())
        if len(texts) < 3:
            raise DataError(f"no Python source text at '{root}': this installation keeps none. Try: --task shakespeare")
        train, held_out, test = _shared(texts)
        version = f"CPython {platform.python_version()}"
        told = f"the Python standard library's source text, {version}, {len(texts)} modules without tests and tables"
        return Corpus(train, held_out, test, f"package:{version} standard library", told)


def _shared(texts: list[str]) -> tuple[str, str, str]:
    """Test and held out from the front, 5 % of the bytes each or one text more; the rest is for training."""
    total = sum(len(text.encode()) for text in texts)
    parts: list[list[str]] = []
    rest = list(texts)
    for left in (2, 1):  # of the texts, the last ones are for the parts that come behind
        part, size = [rest.pop(0)], 0
        size = len(part[0].encode())
        while size < 0.05 * total and len(rest) > left:
            part.append(rest.pop(0))
            size += len(part[-1].encode())
        parts.append(part)
    test, held_out = ("\n".join(part) for part in parts)
    return "\n".join(rest), held_out, test
