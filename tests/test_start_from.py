"""`--from KEY`: training that starts from a stored run's parameters."""

from __future__ import annotations

import json
import re

import pytest
import torch

import harness
from harness.base.errors import UsageError
from harness.base.spec import Protocol
from harness.plan import registry
from harness.training import checkpoint, loop

pytestmark = pytest.mark.usefixtures("no_mirror")
SMOKE = ("--protocol", "smoke")


def lines(bench, *options, status=0):
    result = bench("run", *options, "--json")
    assert result.exit_code == status, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_run_goes_on_from_the_parameters_of_another(bench):
    vb = ("-m", "vb", "-t", "gaussian-3", *SMOKE)
    (first,) = lines(bench, *vb, "--seeds", "1")
    one_step = ("--set", "steps=1", "--set", "lr=1e-12", "--seeds", "1")
    (second,) = lines(bench, *vb, *one_step, "--from", first["key"][:6])
    assert second["settings"]["start_from"] == first["key"]
    was, now = (harness.load_run(line["key"]) for line in (first, second))
    for name, leaf in was.params.items():
        assert torch.allclose(now.params[name], leaf, rtol=1e-9, atol=1e-11), name
    assert now.state.start.flatten().tolist() == was.state.flat.flatten().tolist()
    assert second["metrics"]["elbo"] == pytest.approx(first["metrics"]["elbo"], rel=1e-6)
    fitted = harness.fit(
        "vb",
        "gaussian-3",
        seed=1,
        protocol="smoke",
        settings={
            "steps": 1,
            "lr": 1e-12,
            "start_from": first["key"],
        },
    )
    assert fitted.score() == pytest.approx(now.score(), rel=1e-12)
    assert torch.equal(fitted.continue_(1).state.start, fitted.state.start)
    (cached,) = lines(bench, *vb, *one_step, "--set", f"start_from={first['key']}")
    assert cached["key"] == second["key"]


def test_another_method_takes_the_task_and_another_task_the_method(bench):
    (vb,) = lines(bench, "-m", "vb", "-t", "gaussian-3", *SMOKE)
    options = ("-t", "gaussian-3", *SMOKE, "--set", "steps=1", "--set", "lr=1e-12")
    result = bench("run", "-m", "iaf", *options, "--from", vb["key"], "--json")
    assert re.search(rf"Starts from task.* of run {vb['key']}\. method\.", result.stderr)
    iaf = harness.load_run(json.loads(result.stdout)["key"])
    of_vb = harness.load_run(vb["key"])
    names = [name for name in of_vb.params if name in iaf.params]
    assert "task.delta" in names
    for name in names:
        assert torch.allclose(iaf.params[name], of_vb.params[name], rtol=1e-9), name
    (other,) = lines(
        bench, "-m", "vb", "-t", "gaussian-ar1-3", *SMOKE, "--set", "steps=1", "--from", vb["key"]
    )
    assert other["status"] == "done"


def test_the_best_parameters_on_validation_data_are_taken(bench):
    options = ("-t", "digits", *SMOKE, "--set", "eval_particles=10")
    (vb,) = lines(bench, "-m", "vb", *options, "--set", "steps=30", "--set", "validate_every=10")
    stored = harness.load_run(vb["key"])
    stored.state.best[:] = torch.arange(stored.state.best.numel()) / 1e6
    fitted = harness.fit(
        "vb",
        "digits",
        protocol="smoke",
        settings={
            "steps": 1,
            "lr": 1e-12,
            "start_from": vb["key"],
        },
    )
    again = harness.load_run(vb["key"])
    assert torch.allclose(fitted.state.start, again.state.best.to(fitted.state.start))


def test_an_interrupted_run_goes_on_without_the_one_it_started_from(bench, workspace):
    vb = ("-m", "vb", "-t", "gaussian-3", *SMOKE)
    (first,) = lines(bench, *vb)
    more = (*vb, "--from", first["key"], "--set", "steps=3000")
    whole = harness.fit(
        "vb",
        "gaussian-3",
        protocol="smoke",
        settings={
            "steps": 3000,
            "start_from": first["key"],
        },
    )
    (part,) = lines(bench, *more, "--time-limit", "0.2s", status=3)
    assert part["status"] == "timeout"
    for file in workspace.glob(f"checkpoints/*/{first['key']}*/*"):
        file.unlink()
    (done,) = lines(bench, *more)
    stored = harness.load_run(done["key"])
    assert torch.equal(stored.state.flat, whole.state.flat)
    assert done["metrics"]["travel_used"] == pytest.approx(whole.score()["travel_used"])


@pytest.mark.parametrize("alone", ["0", "1"])
def test_one_of_a_stack_goes_on_without_the_other(bench, alone):
    vb = ("-m", "vb", "-t", "gaussian-3", *SMOKE)
    (first,) = lines(bench, *vb)
    more = (*vb, "--from", first["key"], "--set", "steps=3000")
    settings = {"steps": 3000, "start_from": first["key"]}
    whole = harness.fit("vb", "gaussian-3", seeds=[0, 1], protocol="smoke", settings=settings)
    part = lines(bench, *more, "--seeds", "0-1", "--time-limit", "0.2s", status=3)
    assert [run["status"] for run in part] == ["timeout", "timeout"]
    (done,) = lines(bench, *more, "--seeds", alone)
    stored = harness.load_run(done["key"])
    assert torch.equal(stored.state.flat, whole[int(alone)].state.flat)
    assert torch.equal(stored.state.start, whole[int(alone)].state.start)
    assert done["metrics"]["travel_used"] == whole[int(alone)].score()["travel_used"]


def test_a_member_that_keeps_its_first_parameters_takes_no_start_from_the_others():
    method, task = registry.find("method", "vb").cls(), registry.find("task", "gaussian").cls()
    protocol = Protocol(steps=10, lr=0.1)
    state = loop.start(method, task, protocol, [0, 1])
    ended = checkpoint.replicate_tensors(state, 0)
    state.start, state.is_warm = state.start + 1, True
    at_work, moved = checkpoint.replicate_tensors(state, 1), state.start.clone()
    again = loop.start(method, task, protocol, [0, 1])
    checkpoint.restore(again, [ended, at_work], 5)
    assert again.is_warm
    assert torch.equal(again.start[0], moved[0] - 1)
    assert torch.equal(again.start[1], moved[1])


def test_what_cannot_be_started_from_is_refused_before_anything_is_queued(bench):
    (vb,) = lines(bench, "-m", "vb", "-t", "gaussian-3", *SMOKE)
    bad = ("-m", "vb", "-t", "gaussian-3", *SMOKE, "--set", "lr=1e200", "--seeds", "5")
    (diverged,) = lines(bench, *bad, status=3)
    refused = {
        ("-m", "vb", "-t", "gaussian-3", "--from", "ffff"): "No run named 'ffff'",
        ("-m", "vb", "-t", "gaussian-3", "--from", diverged["key"]): "is diverged, not done",
        ("-m", "iaf", "-t", "norms-2", "--from", vb["key"]): "iaf on norms shares no parameters",
        (
            "-m",
            "vb",
            "-t",
            "gaussian-3",
            "--set",
            "start_from=abc",
        ): "start_from=abc is not",
        ("-m", "vb", "-t", "gaussian-3", "--set", f"start_from={'0' * 16}"): "No run",
        ("-m", "vb", "-t", "gaussian-4", "--from", vb["key"]): "is [3] there and [4] here",
    }
    for options, message in refused.items():
        result = bench("run", *options, *SMOKE)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert bench("list", "runs", "--json").stdout.count('"key"') == 2
    bench("invalidate", "-m", "vb", "--reason", "wrong")
    result = bench("run", "-m", "vb", "-t", "gaussian-3", *SMOKE, "--from", vb["key"])
    assert (result.exit_code, "is retracted (wrong)" in result.stderr) == (2, True), result.output
    with pytest.raises(UsageError, match="is retracted"):
        harness.fit("vb", "gaussian-3", protocol="smoke", settings={"start_from": vb["key"]})
