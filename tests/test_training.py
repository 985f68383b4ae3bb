"""The loop: stacks equal runs alone, a diverging replicate disturbs nobody, a restored state goes
on to the bit.
"""

from __future__ import annotations

import hashlib

import pytest
import torch
from plugins import DivergesAt50, Shift, WrongShape

from harness.base.errors import CheckpointError, PluginError
from harness.plan.grid import expand
from harness.plan.registry import find, load
from harness.training import checkpoint
from harness.training import loop as training

METHODS = ["vb", "iwae", "pnf", "iaf", "hvae", "hvae-untempered", "hvae-iaf"]


def plugins(method="hvae", task="gaussian-3", **sets):
    (run,) = expand([method], [task], [0], "smoke", sets)
    spec = run.spec
    return *load(spec, None), spec


def trained(method, task, protocol, seeds, steps=None):
    state = training.start(method, task, protocol, seeds)
    for progress in training.train(method, task, protocol, state):
        if progress.step == steps:
            break
    return state


def files(state, spec):
    specs = [spec.model_copy(update={"seed": seed}) for seed in state.seeds]
    return [
        hashlib.sha256(checkpoint.encode(state, place, member)).hexdigest()
        for place, member in enumerate(specs)
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "sets",
    [{}, {"batch_size": 300, "shuffle": True, "optimiser": "rmsprop", "clip_norm": 5.0}],
    ids=["full", "batches"],
)
def test_a_stack_equals_its_members_alone(method, sets):
    method, task, spec = plugins(method, **{"task.n_data": 1000, "steps": 40, **sets})
    together = trained(method, task, spec.protocol(), [3, 4, 5]).flat
    alone = torch.cat([trained(method, task, spec.protocol(), [seed]).flat for seed in (3, 4, 5)])
    assert torch.allclose(together, alone, rtol=1e-6, atol=1e-9)


def test_a_diverging_replicate_is_frozen_and_the_others_go_on():
    _, task, spec = plugins(**{"steps": 120})
    state = trained(DivergesAt50(), task, spec.protocol(), [0, 1, 2])
    assert state.diverged_at.tolist() == [-1, 50, -1]
    at_fifty = trained(DivergesAt50(), task, spec.protocol(), [0, 1, 2], steps=50)
    assert torch.equal(state.flat[1], at_fifty.flat[1])
    healthy = trained(Shift(), task, spec.protocol(), [0, 1, 2])
    assert torch.equal(state.flat[[0, 2]], healthy.flat[[0, 2]])
    assert [step for step, _ in training.curves(spec.protocol(), state, 1)["bound"]] == list(
        range(1, 51)
    )


@pytest.mark.parametrize("eval_parameters", ["last", "best"])
def test_nothing_of_a_frozen_replicate_changes(eval_parameters):
    _, task, spec = plugins(**{"steps": 120, "eval_parameters": eval_parameters})
    early = trained(DivergesAt50(), task, spec.protocol(), [0, 1, 2], steps=60)
    late = trained(DivergesAt50(), task, spec.protocol(), [0, 1, 2])
    assert files(early, spec)[1] == files(late, spec)[1]
    assert files(early, spec)[0] != files(late, spec)[0]


def test_training_ends_when_all_have_diverged():
    _, task, spec = plugins(**{"steps": 120})
    assert trained(DivergesAt50(), task, spec.protocol(), [1]).step == 51


@pytest.mark.parametrize("optimiser", ["adam", "adamax", "rmsprop"])
@pytest.mark.parametrize("stop", [1, 37, 250])
def test_a_restored_state_goes_on_to_the_bit(optimiser, stop, tmp_path):
    method, task, spec = plugins(
        "hvae",
        **{
            "steps": 300,
            "optimiser": optimiser,
            "batch_size": 256,
            "shuffle": True,
            "task.n_data": 1000,
        },
    )
    whole = trained(method, task, spec.protocol(), [0, 1])
    part = trained(method, task, spec.protocol(), [0, 1], steps=stop)
    saved = []
    for place, seed in enumerate(part.seeds):
        path = tmp_path / f"{seed}.safetensors"
        sha256 = checkpoint.write(
            path, checkpoint.encode(part, place, spec.model_copy(update={"seed": seed}))
        )
        saved.append(checkpoint.read(path, sha256)[0])
    again = training.start(method, task, spec.protocol(), [0, 1])
    checkpoint.restore(again, saved, stop)
    for _ in training.train(method, task, spec.protocol(), again):
        pass
    assert files(again, spec) == files(whole, spec)
    assert training.curves(spec.protocol(), again, 1) == training.curves(spec.protocol(), whole, 1)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    method, task, spec = plugins(**{"steps": 3})
    content = checkpoint.encode(trained(method, task, spec.protocol(), [0]), 0, spec)
    path = tmp_path / "state.safetensors"
    sha256 = checkpoint.write(path, content)
    checkpoint.read(path, sha256, spec.key)
    with pytest.raises(CheckpointError, match="belongs to run"):
        checkpoint.read(path, sha256, "0" * 16)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for bad in (bytes(flipped), content[:-9], content[:5], b"", b"\xff" * 100):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.read(path, sha256)
    for bad in (content[:-9], content[:5], b"", b"\xff" * 100):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.read(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="Cannot read"):
        checkpoint.read(path)


def test_a_wrong_shape_is_named_with_the_right_one():
    _, task, spec = plugins()
    with pytest.raises(PluginError, match=r"log_w of shape \[1, 10\].*\[S, N\] = \[10, 1\]"):
        trained(WrongShape(), task, spec.protocol(), [0])


def test_a_step_does_not_see_the_data_beyond_their_moments():
    task = find("task", "gaussian").cls(dim=3, n_data=50)
    data = training.load_data(task, [0, 1], torch.float64)
    batch = task.batch(data, 0, None, training.Noise(["0/batch", "1/batch"]))
    assert {name: leaf.numel() for name, leaf in batch.items()} == {
        "n": 2,
        "mean": 6,
        "variance": 6,
    }
