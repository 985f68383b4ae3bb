"""Streams of random numbers: addressed, apart from one another, and the same in a stack."""

from __future__ import annotations

import math

import pytest
import torch

from harness.numerics.noise import TRAIN_BLOCK, Noise

LIKE = torch.zeros((), dtype=torch.float64)
KINDS = ("normal", "uniform")


def draw(noise, kind="normal", shape=(5, 1, 2), like=LIKE):
    return getattr(noise, kind)(*shape, like=like)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_do_not_overlap(kind):
    names = [f"{seed}/{name}" for seed in range(3) for name in ("train", "eval/0")]
    noises = [Noise([name], TRAIN_BLOCK).at(step) for name in names for step in (0, 1, 40)]
    numbers = torch.cat(
        [draw(noise, kind, (50, 1, 2)).flatten() for noise in noises for _ in range(2)]
    )
    assert len(numbers.unique()) == len(numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_equals_each_stream_alone(kind):
    names = ["0/train", "1/train", "7/train"]
    stack = Noise(names, TRAIN_BLOCK).at(21)
    alone = [Noise([name], TRAIN_BLOCK).at(21) for name in names]
    for _ in range(3):
        together = draw(stack, kind, (4, 3, 2))
        assert torch.equal(
            together, torch.cat([draw(noise, kind, (4, 1, 2)) for noise in alone], 1)
        )


@pytest.mark.parametrize("block", [1, TRAIN_BLOCK])
def test_a_step_is_the_same_after_any_history(block):
    fresh = [draw(Noise(["0/train"], block).at(step)) for step in range(40)]
    walked, noise = [], Noise(["0/train"], block)
    for step in range(40):
        here = noise.at(step)
        walked.append(draw(here))
        draw(here, "uniform")
        draw(here)
    assert all(torch.equal(a, b) for a, b in zip(fresh, walked, strict=True))
    assert torch.equal(draw(noise.at(3)), fresh[3])  # and backwards
    assert len(torch.stack(fresh).unique()) == 40 * 10


def test_a_block_serves_each_shape_and_precision_that_is_asked_for():
    noise = Noise(["0/train"], TRAIN_BLOCK)
    draw(noise.at(2))
    assert torch.equal(
        draw(noise.at(2), shape=(3, 1, 2)),
        draw(Noise(["0/train"], TRAIN_BLOCK).at(2), shape=(3, 1, 2)),
    )
    assert draw(noise.at(2), like=LIKE.float()).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_double_precision_rounded(kind):
    names, shape = ["0/train", "1/train"], (100, 2, 3)
    double, single = (draw(Noise(names), kind, shape, like) for like in (LIKE, LIKE.float()))
    assert torch.equal(single, double.float())


def test_calls_within_a_step_differ_and_kinds_do_not_disturb_one_another():
    noise = Noise(["0/train"])
    first, second = draw(noise), draw(noise)
    assert not bool((first == second).any())
    other = Noise(["0/train"])
    assert torch.equal(draw(other), first)


def test_numbers_are_standard_normal_and_uniform():
    n = 200_000
    normal, uniform = (draw(Noise(["0/moments"]), kind, (n,)) for kind in KINDS)
    for sample, mean, variance in (
        (normal, 0, 1),
        (normal.square(), 1, 2),
        (uniform, 1 / 2, 1 / 12),
        (uniform.square(), 1 / 3, 4 / 45),
    ):
        assert abs(float(sample.mean()) - mean) < 5 * math.sqrt(variance / n)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1


def test_permutations_are_orders_one_a_stream():
    noise = Noise(["0/batch", "1/batch"])
    orders = noise.at(4).permutation(50)
    assert torch.equal(orders.sort(1).values, torch.arange(50).expand(2, 50))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1:], Noise(["1/batch"]).at(4).permutation(50))
    assert not torch.equal(orders, noise.at(5).permutation(50))


def test_without_shuffling_the_order_is_the_datas_own():
    noise = Noise(["0/batch", "1/batch"], shuffled=False)
    assert torch.equal(noise.at(4).permutation(5), torch.arange(5).expand(2, 5))


def test_a_draw_without_an_entry_for_each_stream_is_refused():
    with pytest.raises(ValueError, match="axis 1"):
        draw(Noise(["0/train", "1/train"]), shape=(5, 1, 2))
