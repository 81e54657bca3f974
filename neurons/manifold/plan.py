"""Which layer has what: ``fhn*3,knot`` names the kind of every layer, ``0,-1`` names some layers."""

from __future__ import annotations

from collections.abc import Collection

from neurons.errors import UsageError, nearest


def per_layer(what: str, pattern: str, layers: int, known: Collection[str]) -> list[str]:
    """The kind of each layer: names with commas between, ``name*n`` for n in a row, the whole repeated to the end.

    ``softmax,fhn`` alternates; ``fhn*3,knot`` has knots in every fourth layer. In a list of models on the command line,
    where commas part the models, ``+`` stands for a comma. ``what`` is how errors call the kind.
    Raises UsageError for an unknown name, a count below 1 and more names than layers.
    """
    found: list[str] = []
    for part in pattern.replace("+", ",").split(","):
        name, star, count = (piece.strip() for piece in part.partition("*"))
        if name not in known:
            raise UsageError(f"unknown {what} '{name}'.{nearest(name, known)} Try: one of {', '.join(known)}")
        if star and (not count.isdecimal() or int(count) < 1):
            raise UsageError(f"{what} '{part.strip()}': after * stands how many layers. Try: {name}*2")
        found += [name] * (int(count) if star else 1)
    if len(found) > layers:
        raise UsageError(
            f"{what} '{pattern}' names {len(found)} layers, and there are {layers}. Try: layers={len(found)}"
        )
    return [found[index % len(found)] for index in range(layers)]


def some_layers(what: str, text: str, layers: int) -> frozenset[int]:
    """Indices of the layers that have ``what``: ``none``, ``all``, or numbers from 0, those below 0 from the end."""
    if text in ("none", "all"):
        return frozenset(range(layers if text == "all" else 0))
    chosen = set()
    for part in text.replace("+", ",").split(","):
        try:
            index = int(part)
        except ValueError:
            raise UsageError(f"{what} takes none, all or numbers of layers, not '{text}'. Try: {what}='0,-1'") from None
        if not -layers <= index < layers:
            raise UsageError(f"{what}: there is no layer {index} among {layers}. Try: {what}='-1'")
        chosen.add(index % layers)
    return frozenset(chosen)
