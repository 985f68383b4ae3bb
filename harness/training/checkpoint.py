"""State to file and back: safetensors, atomic, checksummed, and the same bytes for the same state."""

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


def member_tensors(state: State, member: int) -> dict[str, Tensor]:
    """One replicate of a stack as named tensors: `params.*`, `optimiser.*` and what the loop
    remembers.
    """
    leaves = {
        f"params.{name}": leaf[member] for name, leaf in state.layout.views(state.flat).items()
    }
    moments = {f"optimiser.{name}": moment[member] for name, moment in state.moments.items()}
    own = {name: getattr(state, name)[member] for name in _own_names(state)}
    return {name: tensor.contiguous().clone() for name, tensor in (leaves | moments | own).items()}


def _own_names(state: State) -> list[str]:
    """What the loop remembers beside parameters and moments: what was seen of validation data only
    where they are looked at.
    """
    return [
        "curve",
        "window",
        "diverged_at",
        *(["validation", "best"] if state.validation.shape[1] else []),
    ]


def encode(state: State, member: int, spec: RunSpec) -> bytes:
    """The file's bytes. Equal states of a run give equal bytes: nothing depends on time, host,
    attempt or path.
    """
    meta = canonical_json(
        {"format": FORMAT, "key": spec.key, "spec": spec.plain(), "step": state.reached(member)}
    )
    return save(member_tensors(state, member), metadata={META: meta})


def write(path: Path, content: bytes) -> str:
    """Put `content` at `path` so that it is there whole or not at all, also after a crash; returns
    its sha256.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as err:
        raise CheckpointError(
            f"Cannot write the checkpoint {path}: {err.strerror}. Free some space or choose another BENCH_HOME."
        ) from err
    return hashlib.sha256(content).hexdigest()


def read(
    path: Path, sha256: str | None = None, key: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata (`format`, `key`, `spec`, `step`) of a checkpoint.

    Args:
        path: the file.
        sha256: what its bytes must hash to.
        key: the run that it must belong to.

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
    """Read a checkpoint's tensors and metadata from its bytes; raises as `read`.

    Args:
        content: the bytes.
        name: what messages call the checkpoint.
        key: the run that it must belong to.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        meta = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][META])
        tensors = {  # they come unaligned
            leaf: tensor.clone() for leaf, tensor in load(content).items()
        }
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise CheckpointError(f"The checkpoint {name} is damaged: {err}.") from err
    if key is not None and meta["key"] != key:
        raise CheckpointError(f"The checkpoint {name} belongs to run {meta['key']}, not to {key}.")
    return tensors, meta


def restore(state: State, members: list[dict[str, Tensor]], step: int) -> None:
    """Put saved replicates into a fresh `state`, in the order of the stack.

    Raises:
        CheckpointError: names or shapes are not those of this run.
    """
    try:
        flat = [
            torch.cat([saved[f"params.{name}"].flatten() for name in state.layout.shapes])
            for saved in members
        ]
        state.flat = torch.stack(flat).to(state.flat)
        state.moments = {
            name: torch.stack([saved[f"optimiser.{name}"] for saved in members])
            for name in state.moments
        }
        for name in _own_names(state):
            setattr(state, name, torch.stack([saved[name] for saved in members]))
    except (KeyError, RuntimeError) as err:
        raise CheckpointError(
            f"The checkpoint does not have the tensors of this run: {err}."
        ) from err
    state.step = step


def parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of one replicate as a stack of one, `task.*` and `method.*`, [1, *event]."""
    return {
        name.removeprefix("params."): leaf[None]
        for name, leaf in tensors.items()
        if name.startswith("params.")
    }


def layout_of(leaves: dict[str, Tensor]) -> Layout:
    """The layout of such parameters."""
    return Layout({name: leaf.shape[1:] for name, leaf in leaves.items()})
