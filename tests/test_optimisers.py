"""Update rules against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

import harness
from harness.base.spec import Protocol, RunSpec
from harness.numerics.optimisers import UPDATES, learning_rate, total_travel

REFERENCES = {
    "adam": lambda row, protocol: torch.optim.Adam([row], lr=protocol.lr, maximize=True),
    "adamax": lambda row, protocol: torch.optim.Adamax([row], lr=protocol.lr, maximize=True),
    "adamw": lambda row, protocol: torch.optim.AdamW(
        [row], lr=protocol.lr, weight_decay=protocol.weight_decay, maximize=True
    ),
    "rmsprop": lambda row, protocol: torch.optim.RMSprop(
        [row], lr=protocol.lr, alpha=protocol.rmsprop_decay, maximize=True
    ),
    "sgd": lambda row, protocol: torch.optim.SGD(
        [row], lr=protocol.lr, momentum=protocol.momentum, maximize=True
    ),
}
STEPS = 200


def protocol(rule, **settings):
    return Protocol(steps=STEPS, lr=1e-2, optimiser=rule, **settings)


def gradients(seed=0):
    """Gradients [R, P] of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.arange(-4, 4, dtype=torch.float64)
    return [
        sizes * torch.randn(3, 8, generator=generator, dtype=torch.float64) for _ in range(STEPS)
    ]


def climb(rule, settings, rates):
    """The parameters after each step, with a rate [R, 1] a step; gradients of rows with rate 0 are
    0.
    """
    update, names = UPDATES[rule]
    flat = torch.linspace(-1, 1, 24, dtype=torch.float64).view(3, 8).clone()
    moments = {name: torch.zeros_like(flat) for name in names}
    for step, gradient in enumerate(gradients()):
        update(flat, gradient * (rates[step] > 0), moments, step, rates[step], settings)
        yield flat.clone()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("rule", UPDATES)
def test_an_update_rule_equals_torchs(rule, schedule):
    settings = protocol(rule, lr_schedule=schedule)
    reference = torch.linspace(-1, 1, 24, dtype=torch.float64).view(3, 8).clone().requires_grad_()
    optimiser = REFERENCES[rule](reference, settings)
    rates = [
        torch.full((3, 1), learning_rate(settings, step), dtype=torch.float64)
        for step in range(STEPS)
    ]
    for step, (ours, gradient) in enumerate(
        zip(climb(rule, settings, rates), gradients(), strict=True)
    ):
        optimiser.param_groups[0]["lr"] = learning_rate(settings, step)
        reference.grad = gradient.clone()
        optimiser.step()
        torch.testing.assert_close(ours, reference.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", UPDATES)
def test_a_frozen_row_keeps_its_bits_and_the_others_go_on(rule):
    settings, stop = protocol(rule), 50
    running = torch.full((3, 1), settings.lr, dtype=torch.float64)
    frozen = running * torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    free = list(climb(rule, settings, [running] * STEPS))
    held = list(
        climb(rule, settings, [running if step < stop else frozen for step in range(STEPS)])
    )
    assert all(torch.equal(flat[1], free[stop - 1][1]) for flat in held[stop:])
    assert torch.equal(held[-1][[0, 2]], free[-1][[0, 2]])
    assert not torch.equal(free[-1][1], held[-1][1])


def test_the_cosine_falls_from_the_rate_to_zero():
    settings = protocol("adam", lr_schedule="cosine")
    rates = [learning_rate(settings, step) for step in range(STEPS + 1)]
    assert rates[0] == settings.lr
    assert rates[STEPS // 2] == pytest.approx(settings.lr / 2, rel=1e-12)
    assert rates[STEPS] == 0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_travel_is_the_sum_of_the_rates(schedule):
    settings = protocol("adam", lr_schedule=schedule)
    rates = [learning_rate(settings, step) for step in range(STEPS)]
    for steps in (1, 77, STEPS):
        assert total_travel(settings, steps) == pytest.approx(math.fsum(rates[:steps]), rel=1e-12)


def moved(settings, task="gaussian-2"):
    """How far each leaf went in one step of sgd, whose step is the rate times the gradient."""
    plain = {"optimiser": "sgd", "steps": 1, "lr_schedule": "constant", "base": "learned"}
    fitted = harness.fit("pnf", task, protocol="smoke", settings=plain | settings)
    start = fitted.state.layout.views(fitted.state.start)
    return {name: leaf - start[name] for name, leaf in fitted.params.items()}


@pytest.mark.parametrize("group", ["method", "model", "base"])
def test_a_group_has_its_own_learning_rate(group):
    usual = moved({"lr": 1e-6})
    other = moved({"lr": 1e-6, f"lr.{group}": 3e-6})
    groups = {
        name: "method" if name.startswith("method.") else "base" if "base" in name else "model"
        for name in usual
    }
    assert set(groups.values()) == {"method", "model", "base"}
    for name, move in usual.items():
        factor = 3.0 if groups[name] == group else 1.0
        torch.testing.assert_close(other[name], factor * move, rtol=1e-7, atol=1e-15)
        assert move.any()


def test_groups_and_optimisers_of_later_releases_leave_old_keys_alone():
    old = {
        "method": "vb", "method_version": 1, "method_fields": {}, "task": "gaussian",
        "task_version": 1, "task_fields": {"dim": 2}, "seed": 0, "steps": 10, "lr": 0.01,
    }  # fmt: skip
    spec = RunSpec(**old)
    for name in ("gradient", "lr_method", "lr_model", "lr_base", "weight_decay", "momentum"):
        assert name not in spec.plain()
    assert RunSpec(**old, lr_base=0.1).key != spec.key
    assert RunSpec(**old, momentum=0.5).key != spec.key
    assert RunSpec(**old, gradient="path").key != spec.key
