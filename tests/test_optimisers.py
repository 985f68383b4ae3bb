"""Update rules against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from harness.base.spec import Protocol
from harness.numerics.optimisers import UPDATES, learning_rate, total_travel

REFERENCES = {
    "adam": lambda row, protocol: torch.optim.Adam([row], lr=protocol.lr, maximize=True),
    "adamax": lambda row, protocol: torch.optim.Adamax([row], lr=protocol.lr, maximize=True),
    "rmsprop": lambda row, protocol: torch.optim.RMSprop(
        [row], lr=protocol.lr, alpha=protocol.rmsprop_decay, maximize=True
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
