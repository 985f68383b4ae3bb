"""State to file and back: safetensors with a checksum, and the same bytes for the same state."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness.base.errors import CheckpointError
from harness.base.files import write_atomically
from harness.base.spec import RunSpec, canonical_json
from harness.training.loop import Layout, State

META = "bench"
FORMAT = 1


def replicate_tensors(state: State, replicate: int) -> dict[str, Tensor]:
    """Name the tensors of one replicate of a stack: `params.*`, `optimiser.*` and the loop's
    own.
    """
    leaves = state.layout.views(state.flat)
    stacked = {f"params.{name}": leaf for name, leaf in leaves.items()}
    stacked |= {f"optimiser.{name}": moment for name, moment in state.moments.items()}
    stacked |= {name: getattr(state, name) for name in _loop_tensors(state)}
    stacked |= {"start": state.start} if state.is_warm else {}
    return {name: tensor[replicate].contiguous().clone() for name, tensor in stacked.items()}


def _loop_tensors(state: State) -> list[str]:
    names = ["curve", "window", "diverged_at"]
    names += ["validation", "best"] if state.validation.shape[1] else []
    if len(state.window_start):
        names += ["best", "best_bound", "best_step", "window_start", "last_elbo"]
    return names


def encode(state: State, replicate: int, spec: RunSpec, **beside: Tensor) -> bytes:
    """Encode one replicate, and tensors beside it, as a file's bytes: equal states of a run give
    equal bytes.
    """
    step = state.steps_taken(replicate)
    meta = {"format": FORMAT, "key": spec.key, "spec": spec.plain(), "step": step}
    tensors = replicate_tensors(state, replicate) | beside
    return save(tensors, metadata={META: canonical_json(meta)})


def write(path: Path, content: bytes) -> str:
    """Write a checkpoint whole or not at all, also after a crash; return its sha256.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as err:
        raise CheckpointError(
            f"Cannot write the checkpoint {path}: {err.strerror}. Free some space or choose "
            "another BENCH_HOME."
        ) from err
    return hashlib.sha256(content).hexdigest()


def read(
    path: Path, sha256: str | None = None, key: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata (`format`, `key`, `spec`, `step`) of a checkpoint, whose
    bytes must hash to `sha256`, and which must belong to the run `key`.

    Raises:
        CheckpointError: the file is missing, damaged, or another run's.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise CheckpointError(f"Cannot read the checkpoint {path}: {err.strerror}.") from err
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f"The checkpoint {path} is damaged: its sha256 is not the one on record."
        )
    return decode(content, str(path), key)


def decode(
    content: bytes, name: str, key: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint, which messages call `name`, from its bytes; as `read`."""
    try:
        length = int.from_bytes(content[:8], "little")
        meta = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][META])
        tensors = {leaf: tensor.clone() for leaf, tensor in load(content).items()}  # aligned
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise CheckpointError(f"The checkpoint {name} is damaged: {err}.") from err
    if key is not None and meta["key"] != key:
        raise CheckpointError(f"The checkpoint {name} belongs to run {meta['key']}, not to {key}.")
    return tensors, meta


def restore(state: State, replicates: list[dict[str, Tensor]], step: int) -> None:
    """Put saved replicates, in the order of the stack, into a state before its first step.

    Raises:
        CheckpointError: names or shapes are not those of this run.
    """
    state.is_warm = any("start" in saved for saved in replicates)
    starts = [
        saved.get("start", start) for saved, start in zip(replicates, state.start, strict=True)
    ]
    try:
        flat = [
            torch.cat([saved[f"params.{name}"].flatten() for name in state.layout.shapes])
            for saved in replicates
        ]
        state.flat = torch.stack(flat).to(state.flat)
        state.moments = {
            name: torch.stack([saved[f"optimiser.{name}"] for saved in replicates])
            for name in state.moments
        }
        state.start = torch.stack(starts).to(state.start)
        for name in _loop_tensors(state):
            setattr(state, name, torch.stack([saved[name] for saved in replicates]))
    except (KeyError, RuntimeError) as err:
        raise CheckpointError(
            f"The checkpoint does not have the tensors of this run: {err}."
        ) from err
    state.step = step


def parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return one replicate's parameters as a stack of one, `task.*` and `method.*`, [1, *event]."""
    return {
        name.removeprefix("params."): leaf[None]
        for name, leaf in tensors.items()
        if name.startswith("params.")
    }


def layout_of(leaves: dict[str, Tensor]) -> Layout:
    """Return the layout of such parameters."""
    return Layout({name: leaf.shape[1:] for name, leaf in leaves.items()})
