"""All tasks at once, from the start: the upper bound every strategy is held against."""

from typing import ClassVar, Literal

from baselines import STRATEGIES
from learning.hooks import Strategy


@STRATEGIES.register("joint")
class Joint(Strategy):
    """Every step draws from the rows of all tasks, past and to come, for as many steps as the others take."""

    data: ClassVar[Literal["current", "past", "all"]] = "all"
