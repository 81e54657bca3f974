"""Active dendrites with inferred context: which task a sample is from is read off its own inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines import LEARNERS
from learning.seeds import step_seed
from neurons.dendrites.active import ActiveDendrites
from neurons.errors import UsageError
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.batches import BatchStream
from tasks.continual.learner import Learner, OnStep
from tasks.continual.stream import StreamTask
from tasks.task import Split


@LEARNERS.register("active-dendrites")
class ActiveDendritesLearner(Learner):
    """Two hidden layers of units gated by dendritic segments, of which ``winners`` stay on, and one shared head.

        y_u = (w_u . x + b_u) sigmoid(d_u),    d_u = the segment response v_us . c of largest magnitude, with its sign

    In training c is the unit-norm mean of the current task's inputs, so the learner must be told that a task begins. At
    test the task is unknown: each sample takes the context of the prototype whose mean input is nearest to it. Only the
    prototypes are kept of past tasks. One segment a task and unit.

    Iyer et al. 2022 on permuted MNIST: width 2048, winners .05, sparsity .5, Adam, batch 256, lr 5e-4 and 3 epochs for
    10 tasks (.9455), 3e-4 for 50, 1e-4 for 100 (.8142). Give the stream standardised inputs (stream.standardise=true).
    The segments hold most parameters: width tasks inputs in each layer.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        seed: int,
        width: int = 256,
        winners: float = 0.05,
        sparsity: float = 0.5,
        epochs: int = 3,
        lr: float = 5e-4,
        batch_size: int = 256,
    ) -> None:
        self.input, self.output, self.seed = input, output, seed
        self.width, self.winners, self.sparsity = width, winners, sparsity
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size
        if input.kind != "features":
            raise UsageError(f"active dendrites read features, not {input.kind}. Try a stream of pictures")
        if not 0 < winners <= 1 or epochs < 1 or batch_size < 1:
            raise UsageError("active-dendrites: winners is a share up to 1, epochs and batch_size are at least 1")
        self.layers: nn.ModuleList | None = None  # built when the number of tasks is known
        self.means: dict[int, Tensor] = {}  # task -> (inputs,)

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        layers = self._built(task.count)
        self.means[task.index] = torch.from_numpy(data.inputs.reshape(len(data), -1).mean(0))  # type: ignore[union-attr]
        context = F.normalize(self.means[task.index], dim=0)
        batches = BatchStream(data, self.input, batch_size=self.batch_size, seed=step_seed(self.seed, task.index))
        closed = ~torch.from_numpy(task.active)
        optimiser = torch.optim.Adam(layers.parameters(), lr=self.lr, fused=True)  # else it takes most of a step
        for step in range(self.epochs * batches.steps_per_epoch):
            batch = batches.batch(step)
            optimiser.zero_grad()
            logits = self._answer(batch.x, context).masked_fill(closed[batch.y], -torch.inf)
            F.cross_entropy(logits, batch.y).backward()
            optimiser.step()
            on_step(step + 1)

    def predict(self, batch: Batch, task: StreamTask | None) -> Tensor:
        if not self.means:
            return torch.zeros(len(batch), self.output.size)
        known = torch.stack(list(self.means.values()))
        nearest = torch.cdist(batch.x.flatten(1), known).argmin(1)
        contexts, scores = F.normalize(known, dim=1), batch.x.new_zeros(len(batch), self.output.size)
        with torch.no_grad():
            for place in nearest.unique().tolist():  # the segments are computed once for all rows of a context
                rows = nearest == place
                scores[rows] = self._answer(batch.x[rows], contexts[place])
        return scores

    def memory(self) -> dict[str, int]:
        held = [] if self.layers is None else [*self.layers.parameters(), *self.layers.buffers()]
        return {
            "parameters": sum(tensor.nbytes for tensor in held),
            "state": sum(mean.nbytes for mean in self.means.values()),
            "buffer": 0,
        }

    def _answer(self, x: Tensor, context: Tensor) -> Tensor:
        assert self.layers is not None
        first, second, head = self.layers
        answer: Tensor = head(second(first(x.flatten(1), context), context))
        return answer

    def _built(self, tasks: int) -> nn.ModuleList:
        if self.layers is None:
            assert self.input.length is not None
            inputs, won = self.input.length * self.input.size, max(1, round(self.winners * self.width))
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                hidden = [
                    ActiveDendrites(
                        inputs=size, units=self.width, context=inputs, segments=tasks, units_won=won,
                        weight_sparsity=self.sparsity,
                    )
                    for size in (inputs, self.width)
                ]  # fmt: skip
                self.layers = nn.ModuleList([*hidden, nn.Linear(self.width, self.output.size)])
        return self.layers
