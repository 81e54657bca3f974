"""What a network learns. Importing this package imports no torch."""

from neurons.registry import Registry

TASKS = Registry("TASKS", "task", "tasks.suites")

__all__ = ["TASKS"]
