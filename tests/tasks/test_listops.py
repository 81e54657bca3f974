"""ListOps against a recursive evaluator and the original's recursive generator, both written here."""

from __future__ import annotations

import random
import statistics
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from neurons.errors import UsageError
from tasks import TASKS
from tasks.suites.listops import OPERATORS, SYMBOLS, evaluate, generate

GRAMMAR = {"max_depth": 6, "max_args": 6}


def parse(symbols: list[str]) -> Any:
    """A digit, or (operator, children)."""
    symbol = symbols.pop(0)
    if symbol.isdigit():
        return int(symbol)
    children = []
    while symbols[0] != "]":
        children.append(parse(symbols))
    symbols.pop(0)
    return symbol, children


def value(tree: Any) -> int:
    if isinstance(tree, int):
        return tree
    values = [value(child) for child in tree[1]]
    rules = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(statistics.median(v)), "[SM": lambda v: sum(v) % 10}
    return rules[tree[0]](values)


def depth(tree: Any) -> int:
    return 1 if isinstance(tree, int) else 1 + max(depth(child) for child in tree[1])


def arities(tree: Any) -> list[int]:
    return [] if isinstance(tree, int) else [len(tree[1]), *(n for child in tree[1] for n in arities(child))]


def original(rng: random.Random, level: int, max_depth: int, max_args: int) -> tuple[Any, int]:
    """Tay et al. 2021, input_pipeline of the listops task: (tree, length)."""
    r = rng.random() if level < max_depth else 1
    if r > 0.25:
        return rng.randint(0, 9), 1
    children, length = [], 2
    for _ in range(rng.randint(2, max_args)):
        child, more = original(rng, level + 1, max_depth, max_args)
        children.append(child)
        length += more
    return (rng.choice(OPERATORS), children), length


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),  # Nangia and Bowman 2018, figure 1
        ("[MED 1 2 ]", 1),  # the integer part of 1.5
        ("[MED 9 0 5 ]", 5),
        ("[MED 1 8 3 4 ]", 3),
        ("[SM 9 9 9 ]", 7),
        ("[SM [MIN 3 8 ] [MAX 3 8 ] [MED 0 1 9 ] ]", 2),
    ],
)
def test_values_by_hand(expression: str, expected: int) -> None:
    assert evaluate(expression) == expected


@pytest.mark.parametrize(
    "expression", ["", "[MIN 1 2", "1 2", "[MIN ]", "]", "[AVG 1 2 ]", "[MIN 1 2 ] ]", "12", "[MIN ( 1 2 ) ]"]
)
def test_malformed_expressions_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="not a ListOps expression"):
        evaluate(expression)


def test_values_equal_those_of_a_recursive_reading() -> None:
    for expression, answer in generate(400, seed=1, min_length=2, max_length=300, **GRAMMAR):
        assert answer == value(parse(expression.split())) == evaluate(expression)


def test_the_grammar_and_the_limits_are_kept() -> None:
    pairs = generate(600, seed=2, min_length=20, max_length=60, **GRAMMAR)
    assert len({expression for expression, _ in pairs}) == len(pairs)
    for expression, _ in pairs:
        symbols = expression.split()
        assert set(symbols) <= set(SYMBOLS)
        assert 20 < len(symbols) < 60
        tree = parse(symbols)
        assert not symbols
        assert depth(tree) <= 6
        assert {*arities(tree)} <= {2, 3, 4, 5, 6}


def test_the_distribution_is_the_original_s() -> None:
    limits = {"min_length": 15, "max_length": 120}
    rng = random.Random(5)
    theirs = []
    while len(theirs) < 1500:
        tree, length = original(rng, 1, **GRAMMAR)
        if 15 < length < 120:
            theirs.append((tree, length))
    ours = [parse(expression.split()) for expression, _ in generate(1500, seed=5, **limits, **GRAMMAR)]
    lengths = [len(expression.split()) for expression, _ in generate(1500, seed=5, **limits, **GRAMMAR)]
    for read in (
        depth,
        lambda tree: len(tree[1]),
        lambda tree: np.mean(arities(tree)),
        lambda tree: len(arities(tree)),
        value,
    ):
        assert ks_2samp([read(tree) for tree in ours], [read(tree) for tree, _ in theirs]).pvalue > 0.01
    assert ks_2samp(lengths, [length for _, length in theirs]).pvalue > 0.01
    roots = [OPERATORS.index(tree[0]) for tree in ours]
    assert chisquare(np.bincount(roots, minlength=4)).pvalue > 0.01


def test_the_arena_s_lengths_and_labels() -> None:
    pairs = generate(3000, seed=0)
    lengths = [len(expression.split()) for expression, _ in pairs]
    assert min(lengths) > 500
    assert max(lengths) < 2000
    # 952 over 40k samples of the recursive generator (939 is quoted from 8k); the standard error here is 12
    assert np.median(lengths) == pytest.approx(952, abs=36)
    shares = np.bincount([answer for _, answer in pairs], minlength=10) / len(pairs)
    assert shares[0] == pytest.approx(0.16, abs=0.025)
    assert shares[9] == pytest.approx(0.16, abs=0.025)
    assert shares[1:9].max() < 0.13


def test_seeded_and_a_longer_list_continues_a_shorter_one() -> None:
    long = generate(5000, seed=3, min_length=5, max_length=40)
    assert generate(100, seed=3, min_length=5, max_length=40) == long[:100]
    assert generate(100, seed=4, min_length=5, max_length=40) != long[:100]


def test_duplicates_are_dropped_and_too_few_trees_is_an_error() -> None:
    assert sorted(generate(10, seed=0, min_length=0, max_length=2)) == [(str(digit), digit) for digit in range(10)]
    with pytest.raises(UsageError, match="10 trees of 11"):
        generate(11, seed=0, min_length=0, max_length=2)
    with pytest.raises(UsageError, match="max_args"):
        generate(1, seed=0, max_args=1)


@pytest.mark.parametrize("name", ["listops", "listops-short"])
def test_a_task_s_rows_read_as_expressions_have_their_labels(name: str) -> None:
    data = TASKS.build(name, train=30, held_out=20, test=10).load()
    assert data.source.startswith("generated:listops(seed=0")
    assert [len(split) for split in (data.train, data.held_out, data.test)] == [30, 20, 10]
    for split in (data.train, data.held_out, data.test):
        for row, label in zip(split.inputs, split.labels, strict=True):
            assert evaluate(" ".join(SYMBOLS[symbol - 1] for symbol in row)) == label
    lengths = [len(row) for row in data.train.inputs]
    low, high = (501, 1999) if name == "listops" else (10, 100)
    assert low <= min(lengths)
    assert max(lengths) <= high == data.input.length
