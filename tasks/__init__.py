"""What a network learns. Importing this package imports no torch."""

from neurons.registry import Registry

TASKS = Registry("TASKS", "task", "tasks.suites")
STREAMS = Registry("STREAMS", "stream", "tasks.continual.streams")

__all__ = ["STREAMS", "TASKS"]
