"""Steps from a recording: the same bits, or none is made."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from plugins import DivergesAt50, Shift

from harness import replay, training
from harness.errors import PluginError
from harness.matrix import expand
from harness.registry import load_method, load_task

METHODS = ["vb", "iwae", "pnf", "iaf", "hvae", "hvae-untempered", "hvae-iaf"]
SETS = {"whole": {}, "batches": {"batch_size": 300, "optimiser": "rmsprop", "clip_norm": 5.0}, "single": {"dtype": "float32"}}
PARTS = ("flat", "curve", "window", "diverged_at")


@pytest.fixture
def recordings(monkeypatch):
    """What recordings were made; every third step is taken both ways."""
    made, record = [], replay.record

    def kept(*arguments: Any) -> Any:
        made.append(record(*arguments))
        return made[-1]

    monkeypatch.setattr(replay, "record", kept)
    monkeypatch.setattr(replay, "CHECK_EVERY", 3)
    return made


def trained(method, seeds, monkeypatch, way, task="gaussian-3", **sets):
    monkeypatch.setenv("BENCH_REPLAY", way)
    (run,) = expand([method if isinstance(method, str) else "vb"], [task], [0], "smoke", {"task.n_data": 1000, "steps": 40, **sets})
    spec = run.spec
    found = load_method(spec.method, spec.method_fields) if isinstance(method, str) else method
    state = training.start(found, load_task(spec.task, spec.task_fields), spec.protocol(), seeds)
    for _ in training.train(found, load_task(spec.task, spec.task_fields), spec.protocol(), state):
        pass
    return state


def equal(one, other):
    pairs = [(getattr(one, name), getattr(other, name)) for name in PARTS]
    pairs += [(one.moments[name], other.moments[name]) for name in one.moments]
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in pairs)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_bit_is_that_of_steps_taken_one_by_one(method, kind, recordings, monkeypatch):
    usual = trained(method, [3, 4, 5], monkeypatch, "off", **SETS[kind])
    assert recordings == []
    played = trained(method, [3, 4, 5], monkeypatch, "always", **SETS[kind])
    assert [made is not None for made in recordings] == [True]
    assert equal(usual, played)


@pytest.mark.parametrize("method", METHODS)
def test_so_it_is_for_one_replicate_and_another_task(method, recordings, monkeypatch):
    usual, played = (trained(method, [0], monkeypatch, way, task="gaussian-ar1") for way in ("off", "always"))
    assert len(recordings) == 1
    assert equal(usual, played)


def test_a_method_that_looks_at_the_step_is_not_recorded(recordings, monkeypatch):
    usual, played = (trained(DivergesAt50(), [0, 1, 2], monkeypatch, way, steps=120) for way in ("off", "always"))
    assert recordings == [None]
    assert played.diverged_at.tolist() == [-1, 50, -1]
    assert equal(usual, played)


class LooksAtValues(Shift, frozen=True):
    """Takes another way by what came out."""

    name: ClassVar[str] = "looks-at-values"

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        return log_w * 2 if bool(log_w.mean() > -2000) else log_w


def test_a_method_that_looks_at_values_is_not_recorded(recordings, monkeypatch):
    usual, played = (trained(LooksAtValues(), [0, 1], monkeypatch, way) for way in ("off", "always"))
    assert recordings == [None]
    assert equal(usual, played)


class RemembersCalls(Shift, frozen=True):
    """Depends on how often it was asked."""

    name: ClassVar[str] = "remembers-calls"
    calls: ClassVar[list[int]] = []

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        self.calls.append(1)
        return log_w + len(self.calls) // 4


def test_a_method_that_depends_on_more_than_its_arguments_is_found_out(recordings, monkeypatch):
    with pytest.raises(PluginError, match="gives other numbers when it is played back"):
        trained(RemembersCalls(), [0, 1], monkeypatch, "always")


def test_a_recording_is_made_once_steps_have_cost_as_much(recordings, monkeypatch):
    monkeypatch.setattr(replay, "PATIENCE", 40)
    trained("vb", [0], monkeypatch, "")
    assert recordings == []
    trained("vb", [0], monkeypatch, "", steps=41)
    assert len(recordings) == 1
