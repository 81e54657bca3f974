"""Checkpoints: one safetensors file, tensors in its body, JSON state in its header. No pickle is ever written or read.

Tensor names carry their owner: ``model/...``, ``optimizer/<parameter>/<slot>``, ``rule/...``, ``strategy/...``. A
parameter shared by several modules is stored once, under its first name. The header holds a SHA-256 over state, names,
dtypes, shapes and bytes, so that a damaged file is refused and never half loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from learning.files import json_text, write_atomic
from neurons.errors import RunError

SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """``tensors`` by full name, and the JSON ``state``."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, owner: str) -> dict[str, Tensor]:
        """The tensors of ``owner`` ("model", "optimizer", "rule", "strategy"), without the prefix."""
        prefix = owner + "/"
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(path: Path, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    """Write ``parts`` (owner -> tensors) and ``state`` to ``path``, whole or not at all; RunError if it cannot."""
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for owner, named in parts.items():
        for name, tensor in named.items():
            plain = tensor.detach().to("cpu").contiguous()
            if plain.untyped_storage().data_ptr() in storages:  # a view of another tensor: safetensors wants its own
                plain = plain.clone()
            storages.add(plain.untyped_storage().data_ptr())
            tensors[f"{owner}/{name}"] = plain
    text = json_text({"schema": SCHEMA, **state})
    write_atomic(path, safetensors.torch.save(tensors, {"state": text, "sha256": _digest(text, tensors)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify ``path``; RunError in one line if it is missing, damaged or of another schema."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        text, sha256 = metadata["state"], metadata["sha256"]
        tensors = safetensors.torch.load(data)
        intact = sha256 == _digest(text, tensors)
        state = json.loads(text)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if not intact:
        raise _damaged(path)
    if state["schema"] != SCHEMA:
        raise RunError(f"checkpoint {path} has schema {state['schema']}, this version reads {SCHEMA}")
    return Checkpoint(tensors, state)


def _damaged(path: Path) -> RunError:
    return RunError(f"checkpoint {path} is corrupt or truncated. Delete it to start over, or resume from another one")


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, live (not copied), a shared one only under its first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"'{name}' is not a tensor; a model's state must be tensors only")
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``tensors`` into ``model`` after checking every name, shape and dtype; RunError names the first mismatch."""
    here = model_tensors(model)
    for name in [*here, *tensors]:
        ours, theirs = _describe(here.get(name)), _describe(tensors.get(name))
        if ours != theirs:
            raise RunError(f"checkpoint {path} does not fit the model: '{name}' is {theirs} there, {ours} here")
    for name, tensor in tensors.items():
        here[name].copy_(tensor)


def _describe(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load the model part of a checkpoint into ``model``; returns the checkpoint's JSON state."""
    checkpoint = load_checkpoint(path)
    restore_model(model, checkpoint.part("model"), path)
    return checkpoint.state


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's slots as ``<parameter>/<slot>``; slots that hold None are left out."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{slot}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Put ``tensors`` back into the slots of ``optimizer``; RunError if one belongs to no trainable parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    index = {name: i for i, name in enumerate(order)}
    slots: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        name, _, slot = full.rpartition("/")
        if name not in index:
            raise RunError(f"checkpoint {path} holds optimiser state of '{name}', which is not trained here")
        slots.setdefault(index[name], {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
