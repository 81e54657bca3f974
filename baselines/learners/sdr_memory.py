"""A memory of sparse codes: one pass, no gradients, no stored samples, and nothing that a later task could undo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines import LEARNERS
from baselines.learners.expansion import SparseExpansion, share_of
from neurons.errors import UsageError
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.batches import collate
from tasks.continual.learner import Learner, OnStep
from tasks.continual.stream import StreamTask
from tasks.task import Split

WINNERS = {"least-squares": 0.05, "hebbian": 0.015}


@LEARNERS.register("sdr-memory")
class SDRMemory(Learner):
    """Sparse expansion b(x) (``SparseExpansion``), then counts that are only ever added to.

        N_cu = number of samples of class c on which unit u won,    n_c = number of samples of class c
        hebbian          s_c = sum of log p(u | c) over the k units that won,    a = ``smoothing``, U units
                         p(u | c) = (N_cu + a) / (k n_c + a U)
        least-squares    s = N (G + r I)^-1 b,    G_uv = number of samples on which both u and v won,    r = ``ridge``

    Both are sums over samples: one pass, each sample used once and dropped, the task of a test sample unknown, and the
    same counts in any order of the tasks, exactly (whole numbers, exact in float32 up to 2^24 samples). "hebbian" is
    local: a synapse counts when its unit and its class are active together, and weighs by its own count and that of its
    class (multinomial naive Bayes, all classes equally likely). "least-squares" is ridge regression to one-hot targets;
    the solution of a synapse needs all of G, (units, units).

    ``units`` of the code, of which the share ``winners`` is on (None: 5 % for least squares, 1.5 % for counts);
    ``patch``: side of the square that a unit sees, for pictures whose places keep their meaning; None: it sees all.
    ``boundaries``: classes are counted task by task, and a class answers with the best of its tasks; the learner must
    then be told in training, never at test, that a new task begins. ``batch_size`` rows are one step.

    Sources: FlyModel (Shen, Dasgupta & Navlakha 2021); Bricken et al. 2023; streaming ridge read-outs as in Zhuang et
    al. 2022. State: N, n, and for least squares G and the solved read-out.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        seed: int,
        readout: Literal["least-squares", "hebbian"] = "least-squares",
        units: int = 4000,
        winners: float | None = None,
        patch: int | None = None,
        boundaries: bool = False,
        ridge: float = 10.0,
        smoothing: float = 0.02,
        batch_size: int = 512,
    ) -> None:
        self.input, self.output, self.seed = input, output, seed
        self.readout, self.units, self.winners, self.patch = readout, units, winners, patch
        self.boundaries, self.ridge, self.smoothing, self.batch_size = boundaries, ridge, smoothing, batch_size
        if ridge <= 0 or smoothing <= 0 or batch_size < 1:
            raise UsageError("sdr-memory: ridge and smoothing are above 0, batch_size is at least 1")
        active = share_of(units, WINNERS[readout] if winners is None else winners)
        self.code = SparseExpansion(input, units=units, winners=active, patch=patch, seed=seed)
        self.together = torch.zeros(units, units) if readout == "least-squares" else None
        self.counts: dict[int, Tensor] = {}  # task (0 for all without boundaries) -> (C, units + 1), the last is n
        self.solved: tuple[Tensor, Tensor] | None = None  # (tasks, C, units), (tasks, C)

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        key = task.index if self.boundaries else 0
        counts = self.counts.setdefault(key, torch.zeros(self.output.size, self.units + 1))
        for step, start in enumerate(range(0, len(data), self.batch_size), 1):
            batch = collate(data, range(start, min(start + self.batch_size, len(data))), self.input)
            bits = self.code(batch.x)
            taught = F.one_hot(batch.y, self.output.size).to(bits)
            counts[:, :-1].addmm_(taught.T, bits)
            counts[:, -1] += taught.sum(0)
            if self.together is not None:
                self.together.addmm_(bits.T, bits)
            self.solved = None
            on_step(step)

    def predict(self, batch: Batch, task: StreamTask | None) -> Tensor:
        if not self.counts:
            return torch.zeros(len(batch), self.output.size)
        if self.solved is None:
            self.solved = self._solve()
        weight, bias = self.solved
        scores = self.code(batch.x) @ weight.flatten(0, 1).T + bias.flatten()
        return scores.unflatten(1, bias.shape).amax(1)

    def _solve(self) -> tuple[Tensor, Tensor]:
        """Weights (tasks, C, units) and biases (tasks, C) of the read-out; a class that a task never showed cannot win
        there."""
        found = torch.stack([self.counts[key] for key in sorted(self.counts)]).double()
        times, shown = found[..., :-1], found[..., -1]
        if self.together is None:
            drawn = self.code.winners * shown.unsqueeze(-1)
            weight = ((times + self.smoothing) / (drawn + self.smoothing * self.units)).log()
        else:
            ridge = self.together.double()
            ridge.diagonal().add_(self.ridge)
            solution = torch.cholesky_solve(times.flatten(0, 1).T, torch.linalg.cholesky(ridge)).T
            weight = solution.reshape(times.shape)
        return weight.float(), torch.zeros_like(shown).masked_fill(shown == 0, -torch.inf).float()

    def memory(self) -> dict[str, int]:
        kept = [*self.counts.values(), *([] if self.together is None else [self.together]), *(self.solved or ())]
        return {
            "parameters": self.code.weight.nbytes,
            "state": sum(tensor.nbytes for tensor in kept),
            "buffer": 0,
        }
