"""Training steps of predictive-coding libraries on jax, jitted, as calls that block until they are done.

Each takes x (N, D), one-hot y (N, C), layer sizes, the inference rate and the number of settling steps. jax reads its
threads once, so the first call here asks for one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from baselines.bench.clock import Call


def one_thread() -> None:
    """XLA on one thread of the processor, if it has not started yet."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _stepping(step: Callable[..., tuple[Any, Any]], parameters: Any, state: Any) -> Call:
    """``step(parameters, state) -> (parameters, state)`` over and over, each awaited."""
    import jax

    held = [parameters, state]

    def call() -> None:
        held[:] = jax.block_until_ready(step(*held))

    return call


def fabricpc_calls(x: np.ndarray, y: np.ndarray, sizes: tuple[int, ...], rate: float, steps: int) -> dict[str, Call]:
    """FabricPC 0.4: a graph of Linear nodes, trained by its own ``train_step`` and ``train_step_backprop``."""
    one_thread()
    import jax
    import optax
    from fabricpc.core.activations import ReLUActivation, SoftmaxActivation
    from fabricpc.core.energy import CrossEntropyEnergy
    from fabricpc.core.inference import InferenceSGD
    from fabricpc.core.topology import Edge
    from fabricpc.graph_assembly import TaskMap, graph
    from fabricpc.graph_initialization import initialize_params
    from fabricpc.nodes import Linear
    from fabricpc.training.train import train_step
    from fabricpc.training.train_backprop import train_step_backprop

    hidden = [Linear(shape=(n,), name=f"hidden{i}", activation=ReLUActivation()) for i, n in enumerate(sizes[1:-1])]
    first = Linear(shape=(sizes[0],), name="input")
    last = Linear(shape=(sizes[-1],), name="output", activation=SoftmaxActivation(), energy=CrossEntropyEnergy())
    nodes = [first, *hidden, last]
    structure = graph(
        nodes=nodes,
        edges=[Edge(source=a, target=b.slot("in")) for a, b in pairwise(nodes)],
        task_map=TaskMap(x=first, y=last),
        inference=InferenceSGD(eta_infer=rate, infer_steps=steps),
    )
    key, adam = jax.random.PRNGKey(0), optax.adam(1e-4)
    parameters = initialize_params(structure, key)
    batch = {"x": jax.numpy.asarray(x), "y": jax.numpy.asarray(y)}

    settle = jax.jit(lambda p, s: train_step(p, s, batch, structure, adam, key)[:2])
    exact = jax.jit(lambda p, s: train_step_backprop(p, s, batch, structure, adam, key)[:2])
    return {
        "backprop": _stepping(exact, parameters, adam.init(parameters)),
        "spc": _stepping(settle, parameters, adam.init(parameters)),
    }
