"""Everything so far, again with every task: what a full memory is worth."""

from typing import ClassVar, Literal

from baselines import STRATEGIES
from learning.hooks import Strategy


@STRATEGIES.register("cumulative")
class Cumulative(Strategy):
    """Training goes on with the rows of all tasks so far; its accuracy on each new task is the reference of
    intransigence."""

    data: ClassVar[Literal["current", "past", "all"]] = "past"
