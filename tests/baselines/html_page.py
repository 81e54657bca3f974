"""A page read back by Python's own HTML parser: what every test of a report holds it against."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "base", "wbr", "source"}


class Page(HTMLParser):
    """Tags that balance, every attribute, all text, and tables as {table: {row name: {data-key: (text, below)}}}."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: dict[str, dict[str, dict[str, list[str]]]] = {}
        self.row = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag == "table":
            self.tables[str(dict(attrs)["id"])] = {}
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        names = [tag for tag, _ in self.open]
        if "style" in names:
            return
        self.text.append(data)
        classes = [attrs.get("class") for _, attrs in self.open]
        if "table" not in names or "tbody" not in names:
            return
        table = next(str(attrs["id"]) for tag, attrs in self.open if tag == "table")
        if classes[-1] == "name":
            self.row = data
        keys = [str(attrs["data-key"]) for _, attrs in self.open if "data-key" in attrs]
        if keys:
            self.tables[table].setdefault(self.row, {}).setdefault(keys[0], []).append(data)
