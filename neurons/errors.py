"""Errors a user can mend. Each carries the exit code the command line ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NeuronsError(Exception):
    """A failure told in one line; ``exit_code`` is what the command line returns."""

    exit_code = 1


class RunError(NeuronsError):
    """A run failed: non-finite loss, a directory that is taken, a corrupt checkpoint, a full disk."""


class DivergedError(RunError):
    """Training or settling ran away: this run is over, others may go on."""


class UsageError(NeuronsError, ValueError):
    """Wrong name, option, type or configuration."""

    exit_code = 2


class RequirementError(NeuronsError):
    """A ``--require`` was not met."""

    exit_code = 3


class DataError(NeuronsError):
    """Data is missing, offline or malformed."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'gamma'?`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
