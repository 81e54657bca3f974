"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from neurons.errors import NeuronsError


class Interrupted(NeuronsError):
    """The run was stopped by Ctrl-C or SIGTERM; its message says where it can resume."""

    exit_code = 130


class StopRequest:
    """True once a signal has arrived."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextlib.contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request that the loop reads; a second one acts at once.

    Signals reach only the main thread; elsewhere nothing is installed. A signal that the parent had ignored stays
    ignored: a shell does so for Ctrl-C where it starts a job in the background.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def note(number: int, frame: FrameType | None) -> None:
        request.requested = True
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
