"""What a single task cannot use is refused before anything is trained or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines import STRATEGIES
from baselines.config import resolve
from baselines.experiment import run
from baselines.plan import plan
from neurons.errors import UsageError


@pytest.mark.parametrize("name", [name for name in STRATEGIES.names() if name != "naive"])
def test_a_strategy_for_streams_is_refused_on_one_task(name: str, tmp_path: Path) -> None:
    resolved = resolve(task="digits", model="mlp", rule="backprop", strategy=name, steps=1)
    out = tmp_path / "run"
    for use in (lambda: run(resolved.config, out=out), lambda: plan(resolved)):
        with pytest.raises(UsageError, match="is for a stream of tasks") as caught:
            use()
        assert f"strategy '{name}'" in str(caught.value)
        assert f"neurons continual permuted-digits --strategies naive,{name}" in str(caught.value)
    assert not out.exists()
