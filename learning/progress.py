"""Progress on stderr: a bar in a terminal, one plain line per evaluation elsewhere. stdout is left to the result."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Progress:
    """Shows step, loss, learning rate, held-out value and time left; silent unless ``enabled``."""

    def __init__(self, *, enabled: bool, steps: int, start: int = 0) -> None:
        self.steps = steps
        self._plain = enabled and not sys.stderr.isatty()
        self._held_out = ""
        self._bar = None
        if enabled and not self._plain:
            self._bar = tqdm(total=steps, initial=start, file=sys.stderr, unit="step", dynamic_ncols=True)

    def step(self, loss: float, lr: float) -> None:
        """One training step is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, lr {lr:.2e}{self._held_out}", refresh=False)
            self._bar.update()

    def evaluated(self, step: int, loss: float, lr: float, value: float) -> None:
        """An evaluation at ``step`` gave ``value``."""
        self._held_out = f", held out {value:.4f}"
        if self._plain:
            line = f"step {step}/{self.steps}: loss {loss:.4f}, lr {lr:.2e}{self._held_out}"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
