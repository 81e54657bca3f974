"""How numbers are written in reports: at most three significant digits, a unit, a real minus sign, n/a for nothing."""

from __future__ import annotations

import math

NOTHING = "n/a"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FRACTIONS = ("accuracy", "acc", "f1", "macro_f1", "precision", "recall", "exact_match")


def finite(value: object) -> float | None:
    """``value`` as a float, or None where it is absent, not a number, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def dig(document: object, *keys: str) -> object:
    """``document[k0][k1]...``, or None where a step is missing."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def values(row: dict) -> list[float]:
    """The finite per-seed values of a row, in seed order."""
    found = dig(row, "value", "values")
    return [known for one in (found if isinstance(found, list) else []) if (known := finite(one)) is not None]


def rule_of(row: dict) -> str:
    """The part of a row's label that is not the model: variants of one rule are told apart by it."""
    label, model = str(row.get("label", "")), str(row.get("model", ""))
    return label.removeprefix(f"{model} / ") if label.startswith(f"{model} / ") else str(row.get("rule", label))


def is_fraction(metric: str) -> bool:
    """True where a metric lives in [0, 1] and is read in per cent."""
    return metric in _FRACTIONS or metric.endswith("accuracy")


def _short(value: float) -> str:
    """Three significant digits, no exponent for 0.001 <= |value| < 1e6; a last zero stands only where it rounds."""
    size = abs(value)
    if size == 0 or 0.001 <= size < 999_999.5:
        digits = int(f"{size:.2e}".partition("e")[2])  # the decimal exponent after rounding: 9.996 is 10.0
        text = f"{value:.{max(0, 2 - digits)}f}"
        exact = f"{round(value, 9):g}"
        return (exact if float(exact) == float(text) == round(value, 9) else text).replace("-", "−")
    return f"{value:.2e}".replace("-", "−")


def number(value: object) -> str:
    """A plain number: 0.0123, 7.31, 812."""
    known = finite(value)
    return NOTHING if known is None else _short(known)


def metric(value: object, name: str, unit: bool = True) -> str:
    """A primary value: 81.2 % for fractions, four significant digits otherwise."""
    known = finite(value)
    if known is None:
        return NOTHING
    if is_fraction(name):
        return f"{100 * known:.1f}".replace("-", "−") + (" %" if unit else "")
    return f"{known:.4g}".replace("-", "−")


def difference(value: object, name: str) -> str:
    """A signed difference: in percentage points for fractions, four significant digits otherwise."""
    known = finite(value)
    if known is None:
        return NOTHING
    text = f"{100 * known:+.1f}" if is_fraction(name) else f"{known:+.4g}"
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def points_unit(name: str) -> str:
    """The unit of a difference, with a space before it."""
    return " points" if is_fraction(name) else " bits per byte" if name == "bits_per_byte" else ""


def words(name: str) -> str:
    """The name of a metric as a reader would say it."""
    return name.replace("_", " ")


def interval(low: object, high: object, name: str, signed: bool = False) -> str:
    """``[low, high]``, or an empty string where there is none (fewer than two seeds)."""
    if finite(low) is None or finite(high) is None:
        return ""
    ends = [difference(end, name) if signed else metric(end, name, unit=False) for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"


def plus_minus(value: object, name: str) -> str:
    """``81.2 ± 1.3 %`` from {mean, low, high}; brackets where the interval is lopsided, the mean alone without one."""
    mean, low, high = (finite(dig(value, key)) for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return metric(mean, name)
    unit = " %" if is_fraction(name) else ""
    if abs((high - mean) - (mean - low)) > 1e-6 * (high - low):
        return f"{metric(mean, name)} {interval(low, high, name)}"
    return f"{metric(mean, name, unit=False)} ± {metric((high - low) / 2, name, unit=False)}{unit}"


def count(value: object, unit: str = "") -> str:
    """Decimal prefixes: 263 k, 1.3 k/s, 4.1 T."""
    known = finite(value)
    if known is None:
        return NOTHING
    index = 0
    while abs(known) >= 999.5 and index < len(_PREFIXES) - 1:
        known /= 1000
        index += 1
    return f"{_short(known)} {_PREFIXES[index]}{unit}".strip()


def size(value: object) -> str:
    """Bytes by binary prefixes: 12 MiB."""
    known = finite(value)
    if known is None:
        return NOTHING
    index = 0
    while abs(known) >= 1023.5 and index < len(_BINARY) - 1:
        known /= 1024
        index += 1
    return f"{_short(known)} {_BINARY[index]}"


def seconds(value: object) -> str:
    """A duration: 45 µs, 3.2 ms, 41.2 s, 12.4 min, 3.1 h."""
    known = finite(value)
    if known is None:
        return NOTHING
    steps = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"), (math.inf, 1 / 3600, "h"))
    scale, unit = next((scale, unit) for limit, scale, unit in steps if abs(known) < limit or limit == math.inf)
    return f"{_short(known * scale)} {unit if known else 's'}"
