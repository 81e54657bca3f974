"""How a network learns. Importing this package imports no torch."""

from neurons.registry import Registry

RULES = Registry("RULES", "rule", "learning.rules")
OPTIMIZERS = Registry("OPTIMIZERS", "optimizer", "learning")
SCHEDULES = Registry("SCHEDULES", "schedule", "learning")

__all__ = ["OPTIMIZERS", "RULES", "SCHEDULES"]
