"""What a brain-inspired network is made of. Importing this package imports no torch."""

from neurons.registry import Registry

MODELS = Registry("MODELS", "model", "neurons.models")
ATTENTIONS = Registry("ATTENTIONS", "attention", "neurons.oscillations", "neurons.manifold", "neurons.resonance")
KERNELS = Registry("KERNELS", "kernel", "neurons.oscillations")
PHASE_CODES = Registry("PHASE_CODES", "phase-code", "neurons.oscillations")
POSITIONS = Registry("POSITIONS", "position", "neurons.manifold")

__all__ = ["ATTENTIONS", "KERNELS", "MODELS", "PHASE_CODES", "POSITIONS", "Registry"]
