"""What the WikiText tasks share: rows that are lines, and the counting of words."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from neurons.errors import DataError
from tasks.data import Rows, load_rows
from tasks.language import Corpus, LanguageTask


class WikiText(LanguageTask):
    """A row of the hub is a line; an empty one was `` `` and the line's end in the published file."""

    line_ends: ClassVar[bool] = True
    raw = True  # False: the published tokens, where there is a choice

    def corpus(self, data_dir: str | None) -> Corpus:
        assert self.data is not None
        wanted = self.data if self.raw else replace(self.data, config=self.data.config.replace("-raw", ""))
        try:
            rows, source = load_rows(wanted, data_dir, task=self.name)
        except DataError as error:
            if "split 'train' is missing" not in str(error):
                raise
            raise DataError(f"{error}. What there is of WikiText-103's train is --task wikitext103-partial") from error
        train, held_out, test = (_text(rows[name]) for name in wanted.splits)
        told = f"{wanted.config}, own splits, word perplexity over words and ends of lines"
        return Corpus(train, held_out, test, source, told)


def _text(rows: Rows) -> str:
    return "".join(line or " \n" for line in rows.texts)
