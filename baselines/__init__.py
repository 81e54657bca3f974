"""What every result is held against. Importing this package imports no torch."""

from neurons import ATTENTIONS, MODELS
from neurons.registry import Registry

MODELS.extend("baselines.models")
ATTENTIONS.extend("baselines.models")
FLOORS = Registry("FLOORS", "floor", "baselines.floors")
STRATEGIES = Registry("STRATEGIES", "strategy", "baselines.strategies", plural="strategies")
LEARNERS = Registry("LEARNERS", "learner", "baselines.learners")

__all__ = ["FLOORS", "LEARNERS", "STRATEGIES"]
