"""Train on what comes, forget what went: the lower bound every strategy is held against."""

from baselines import STRATEGIES
from learning.hooks import Strategy


@STRATEGIES.register("naive")
class Naive(Strategy):
    """Sequential fine-tuning, no memory."""
