"""Trainings that one process and two make alike. Run as a program, under the variables of torchrun, it makes all of
them and leaves what it learned in ``OUT/<case>-<rank>.safetensors``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_training import TinyModel
from torch import nn

from learning import OPTIMIZERS, RULES, distributed
from learning.checkpoint import model_tensors
from learning.run import RunDirectory
from learning.seeds import seed_everything, step_seed
from learning.trainer import Trainer
from neurons.model import Model
from neurons.readouts import LabelReadout
from neurons.specs import Batch, InputSpec, OutputSpec

SIZES = (7, 6, 9, 1)  # of the batches: equal halves, unequal ones, fewer samples than processes
CLAMP = 0.4
SETTLING = {"variant": "spc", "steps": 12, "inference_rate": 0.9}


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, context):
        return torch.tanh(self.linear(x))


class Plain(Model):
    """Four stages without anything random, in float64."""

    def __init__(self):
        super().__init__(InputSpec("features", 3, 4), OutputSpec("label", 3))
        seed_everything(0)
        self.stages = nn.ModuleList([Dense(), Dense(), Dense(), LabelReadout(width=4, classes=3)])
        self.double()


def batch_at(i, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step_seed(7, i))
    x = 2 * torch.randn(SIZES[i % 4], 3, 4, generator=generator, dtype=torch.float64)
    return Batch(x.to(dtype), x.mean(1)[:, :3].argmax(1))


def half(batch, place):
    middle = len(batch) // 2
    part = slice(middle) if place == 0 else slice(middle, None)
    return Batch(batch.x[part], batch.y[part])


def evaluate(model):
    assert distributed.rank() == 0  # the others are told
    return {"primary": -float(model.loss(batch_at(0, next(model.parameters()).dtype)).reported), "loss": 0.0}


def fit(model, rule, *, steps=8, dtype=torch.float64, run=None, resume=False, **options):
    torch.set_num_threads(1)
    trainer = Trainer(
        **{"steps": steps, "lr": 0.03, "eval_every": 4, "checkpoint_every": 2, "select": "last", **options}
    )
    arguments = {"seed": 3, "run": run, "resume": resume, "optimizer": OPTIMIZERS.build("adamw")}
    report = trainer.fit(model, rule, lambda i: batch_at(i, dtype), evaluate, **arguments)
    return report, model_tensors(model)


def pc(**options):
    return RULES.build("predictive-coding", **{**SETTLING, **options})


def losses(report):
    rows = [row["loss"] for row in report.curve if row["split"] == "train"]
    return {"losses": torch.tensor(rows, dtype=torch.float64)}


CASES = {
    "backprop": lambda: RULES.build("backprop"),
    "ipc": lambda: pc(variant="ipc", steps=4),
    "spc": lambda: pc(),
    "epc": lambda: pc(variant="epc", inference_rate=0.1),
}


def one(name):
    """The training called ``name``: its parameters and training losses."""
    report, tensors = fit(Plain(), CASES[name]())
    return tensors | losses(report)


def stop_at(step):
    def batches(i):
        if i == step:
            raise KeyError("stopped on purpose")
        return batch_at(i)

    return batches


def interrupted(out):
    """Eight steps, broken off behind the checkpoint of the fourth and taken up again."""
    options = {"steps": 8, "lr": 0.03, "eval_every": 4, "checkpoint_every": 2}
    config = {"trainer": {"steps": 8}}
    for batches, resume in ((stop_at(5), False), (batch_at, True)):
        model, run = Plain(), RunDirectory.create(out, config, resume=resume)
        try:
            Trainer(**options).fit(
                model, RULES.build("backprop"), batches, evaluate, seed=3, run=run, resume=resume, progress=True
            )
        except KeyError:
            continue
    return model_tensors(model)


def main(out):
    place = int(sys.argv[2])
    found = {name: one(name) for name in CASES}
    report, tensors = fit(Plain(), pc(clamp=CLAMP))
    found["clamp"] = tensors | {"lambda_max": torch.tensor(report.scalars["lambda_max"], dtype=torch.float64)}
    report, tensors = fit(Plain(), pc(steps=60, tolerance=0.2))
    found["tolerance"] = tensors | {"steps": torch.tensor(report.scalars["steps"])}
    for name, select in (("statistics", "last"), ("selected", "best")):
        found[name] = fit(TinyModel(), RULES.build("backprop"), dtype=torch.float32, select=select)[1]
    found["resumed"] = interrupted(out / f"run-{place}")
    for steps in (5, 5 + place):
        try:
            fit(Plain(), RULES.build("backprop"), steps=steps)
        except Exception as error:
            (out / f"error-{place}").write_text(f"{type(error).__name__}: {error}")
    for name, tensors in found.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, out / f"{name}-{place}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
