"""Tables: alignment, dropped columns, cut lines."""

from __future__ import annotations

from cli.table import Column, block, clip, render

COLUMNS = [Column("name"), Column("value", right=True), Column("note", drop=1), Column("more", drop=2)]
ROWS = [["a", "1.0", "first", "x"], ["longer", "12.5", "second", "y"]]


def test_columns_are_aligned_to_their_widest_cell():
    text, dropped = render(COLUMNS, ROWS, width=None)
    assert text == "name    value  note    more\na         1.0  first   x\nlonger   12.5  second  y"
    assert dropped == []


def test_optional_columns_go_largest_drop_first_until_the_table_fits():
    text, dropped = render(COLUMNS, ROWS, width=22)
    assert dropped == ["more"]
    assert max(map(len, text.splitlines())) <= 22
    assert render(COLUMNS, ROWS, width=15)[1] == ["note", "more"]


def test_what_still_does_not_fit_is_cut_with_an_ellipsis():
    text, _ = render([Column("name"), Column("summary")], [["a", "word " * 20]], width=20, header=False)
    assert len(text) <= 20
    assert text.endswith("…")
    assert clip("abc", 3) == "abc"
    assert clip("abcd", 3) == "ab…"


def test_empty_columns_are_left_out_and_none_is_a_rule():
    text, _ = render([Column("a"), Column("b"), Column("c")], [["1", "", "2"], None, ["3", "", "4"]], width=None)
    assert text.splitlines() == ["a  c", "1  2", "----", "3  4"]


def test_a_block_aligns_values_and_indents_further_lines():
    assert block([("a", "1"), ("long", "2\n3")]) == "a     1\nlong  2\n      3"
