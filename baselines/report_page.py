"""The frame of every report: one self-contained HTML page, its style inside, no script."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path


def shell(title: str, parts: Iterable[str]) -> str:
    """The whole document around ``parts``, of which the empty ones are left out."""
    css = Path(__file__).with_name("report_style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str, note: str = "") -> str:
    """A titled part with a line under its heading; nothing where there is no body."""
    if not body:
        return ""
    intro = f'<p class="note">{note}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{intro}{body}\n</section>"
