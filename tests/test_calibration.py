"""Calibration: which value makes a step equally long, on clocks that are made up, and the command
around it.
"""

from __future__ import annotations

import random
import shlex

import pytest
from conftest import json_lines

from harness.base.errors import DataError, UsageError
from harness.training import calibration
from harness.training.calibration import (
    PASSES,
    ROUNDS,
    Spread,
    entrant,
    first_values,
    next_value,
    search,
    spread,
)

QUICK = ("-t", "digits", "--protocol", "smoke", "--steps", "1", "--threads", "1")


class Clock:
    """Steps that take `seconds[method](value)`, with noise and drift; it remembers what was asked
    of it.
    """

    def __init__(self, *seconds, noise=0.0):
        self.seconds, self.noise, self.asked = seconds, noise, []
        self.random, self.drift = random.Random(0), 1.0

    def __call__(self, points, rounds):
        self.asked.append((points, rounds))
        times = {point: [] for point in points}
        for _ in range(rounds):
            self.drift *= 1.02  # the machine gets slower all the time
            for point in points:
                noise = 1 + self.noise * self.random.gauss(0, 1)
                times[point].append(self.seconds[point.method](point.value) * noise * self.drift)
        return times


def linear(a, b):
    return lambda value: a + b * value


@pytest.mark.parametrize(
    ("other", "first", "answer"),
    [
        (linear(0.2, 0.05), 40, 16),  # below the first values
        (linear(0.01, 0.01), 40, 99),  # above them
        (linear(0.1, 0.002), 1, 450),  # far above them
        (lambda value: 0.01 * value**1.5, 10, 22),  # 21.54 where it is 1
        (lambda value: 0.1 * value**0.5, 40, 100),  # bent the other way
        (
            lambda value: 0.2 + 0.01 * value + (0.3 if value > 60 else 0),
            10,
            61,
        ),  # a cache that is full: 0.8 at 60, 1.11 at 61
    ],
)
def test_the_value_found_makes_steps_equally_long(other, first, answer):
    clock = Clock(lambda value: 1.0, other)
    step, (found,) = search(clock, [10, first])
    assert abs(other(found.value) - 1) <= abs(other(answer) - 1) + calibration.CLOSE
    assert found.ratio.median == pytest.approx(other(found.value))
    assert found.ratio.spread < 1e-12  # drift hits all alike
    assert len(found.ratios) >= 3
    assert found.value in found.ratios
    assert step.median > 1


def test_noise_is_survived_and_reported():
    for noise, slack in ((0.02, 0.05), (0.2, 0.2)):
        clock = Clock(lambda value: 1.0, linear(0.2, 0.02), noise=noise)
        _, (found,) = search(clock, [10, 10])
        assert 0.2 + 0.02 * found.value == pytest.approx(1, abs=slack)
        assert found.ratio.spread == pytest.approx(
            0.95 * noise, rel=0.6
        )  # 0.67 of a standard deviation, of a ratio of two


def test_several_methods_are_timed_in_the_same_rounds_and_the_answers_once_more():
    clock = Clock(lambda value: 1.0, linear(0.0, 0.1), linear(0.5, 0.01))
    _, answers = search(clock, [10, 7, 20])
    assert [answer.value for answer in answers] == [10, 50]
    points, rounds = clock.asked[-1]
    assert [(point.method, point.value) for point in points] == [(0, 10), (1, 10), (2, 50)]
    assert rounds == 2 * ROUNDS
    assert all(points[0] == calibration.Point(0, 10) for points, _ in clock.asked)


def test_what_cannot_be_reached_ends_and_says_so():
    _, (slow,) = search(Clock(lambda value: 1.0, linear(1.5, 0.5)), [1, 10])
    assert (slow.value, slow.ratio.median, slow.equal) == (1, pytest.approx(2.0), False)
    clock = Clock(lambda value: 1.0, lambda value: 0.5)
    _, (constant,) = search(clock, [1, 10])
    assert not constant.equal
    assert constant.value <= calibration.LARGEST
    assert len(clock.asked) <= PASSES


def test_the_next_value_lies_on_the_line_and_not_too_far_away():
    assert first_values(15) == [7, 14, 21]
    assert next_value({10: 0.3, 20: 0.5, 30: 0.7}) == 45
    assert next_value({1: 0.01, 2: 0.011, 3: 0.012}) == 12
    assert next_value({5: 3.0, 10: 5.0, 15: 7.0}) == 1
    assert (
        next_value({50: 0.6, 60: 0.7, 61: 1.2, 70: 1.3, 80: 1.4}) == 61
    )  # between 60 and 61, whatever the line says
    assert 5 <= next_value({5: 0.9, 10: 1.05, 15: 0.95}) <= 15  # noise
    assert next_value({5: 1.3, 10: 1.2, 15: 1.1}) == 1
    assert next_value({5: 0.8, 10: 0.7, 15: 0.6}) == 60
    assert next_value({1: 1.01, 2: 1.2, 3: 1.4, 4: 1.6}) == 1
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(3.0, 1.0)


def test_the_setting_is_n_leapfrog_where_there_is_one():
    assert [
        entrant(name).field for name in ("hvae", "hvae-untempered", "hvae-iaf", "iwae", "vb")
    ] == ["n_leapfrog"] * 3 + ["particles"] * 2
    with pytest.raises(UsageError, match="stands for 2 settings"):
        entrant("hvae[n_leapfrog=1,2]")


def test_the_command_finds_a_value_and_a_run_that_uses_it(bench, workspace, monkeypatch):
    monkeypatch.setattr(calibration, "ROUNDS", 2)
    monkeypatch.setattr(calibration, "PASSES", 3)
    methods = ("-m", "vb", "-m", "hvae-untempered[ n_leapfrog = 1 ][max_step=0.4]", "-m", "iwae")
    result = bench(
        "calibrate", *methods, *QUICK, "--set", "particles=6", "--set", "lr=1e-4", "--json"
    )
    assert result.exit_code == 0
    assert "Timing vb with particles=6, " in result.stderr
    hvae, iwae = json_lines(result)
    assert (hvae["field"], iwae["field"], iwae["task"], iwae["threads"]) == (
        "n_leapfrog",
        "particles",
        "digits",
        1,
    )
    assert hvae["reference"] == iwae["reference"]
    assert (hvae["reference"]["method"], hvae["reference"]["value"]) == ("vb", 6)
    assert (
        min(
            hvae["value"], iwae["value"], hvae["step_s"], hvae["ratio"], hvae["reference"]["step_s"]
        )
        > 0
    )
    assert len(iwae["ratios"]) >= 3
    assert list(workspace.iterdir()) == []
    for line in (hvae, iwae):
        program, *words = shlex.split(line["command"])
        (planned,) = json_lines(bench(*words, "--dry-run", "--json"))
        spec = planned["spec"]
        used = spec["particles"] if line is iwae else spec["method_fields"]["n_leapfrog"]
        assert (program, used, spec["lr"], spec["steps"]) == ("bench", line["value"], 1e-4, 100)
    assert planned["method"] == "iwae"


def test_the_table_says_it_in_words(bench, monkeypatch):
    found = calibration.Answer(
        37, Spread(0.0121, 0.0004), Spread(1.008, 0.021), {20: 0.6, 40: 1.08, 60: 1.6, 37: 1.01}
    )
    monkeypatch.setattr(
        calibration, "search", lambda measure, values: (Spread(0.012, 0.0003), [found])
    )
    said = bench("calibrate", "-m", "hvae", "-m", "iwae", *QUICK).stdout
    assert (
        "iwae with particles=37 takes as long a step as hvae with n_leapfrog=10 (ratio 1.01 ± 0.02)"
        in said
    )
    assert "bench run -m iwae -t digits --protocol smoke --set particles=37" in said
    assert "12 ± 0.3" in said
    found = calibration.Answer(1, Spread(0.03, 0.001), Spread(2.5, 0.1), {1: 2.5, 2: 2.7, 3: 3.0})
    said = bench("calibrate", "-m", "vb", "-m", "hvae", *QUICK).stdout
    assert (
        "hvae with n_leapfrog=1 comes nearest to a step of vb with particles=1 (ratio 2.50 ± 0.10)"
        in said
    )
    assert "bench run -m 'hvae[n_leapfrog=1]' -t digits --protocol smoke" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "hvae", "-t", "digits"), "two methods or more"),
        (("-m", "hvae", "-m", "iwea", "-t", "digits"), "Did you mean 'iwae'"),
        (("-m", "hvae", "-m", "hvae[n_leapfrog=1,2]", "-t", "digits"), "stands for 2 settings"),
        (("-m", "hvae", "-m", "iwae", "-t", "digits[latent=2,4]"), "one task"),
        (("-m", "hvae", "-m", "iwae", "-t", "digits", "--protocol", "long"), "protocol of task"),
        (("-m", "hvae", "-m", "iwae", "-t", "digits", "--set", "particles"), "Cannot read --set"),
        (("-m", "hvae", "-m", "iwae", "-t", "digits", "--set", "particles=0"), "particles"),
        (
            ("-m", "hvae", "-m", "iwae", "-t", "digits", "--set", "method.n_leapfrog=3"),
            "n_leapfrog",
        ),
        (
            ("-m", "hvae", "-m", "iwae", "-t", "digits", "--set", "lr=1e30", "--steps", "5"),
            "diverged while it was timed",
        ),
        (("-m", "hvae", "-m", "iwae", "-t", "digits", "--steps", "0"), "--steps"),
        (("-m", "hvae", "-m", "iwae", "-t", "digits", "--threads", "0"), "--threads"),
    ],
)
def test_bad_input_is_one_clear_line(bench, workspace, arguments, message):
    result = bench("calibrate", *arguments)
    assert result.exit_code == 2
    errors = [
        line
        for line in result.stderr.splitlines()
        if not line.startswith(("Timing", "Usage", "Try", "\n")) and line
    ]
    assert len(errors) == 1
    assert message in errors[0]
    assert result.stdout == ""
    assert list(workspace.iterdir()) == []


def test_data_that_are_not_there_are_one_clear_line(bench, monkeypatch):
    def missing(*given):
        raise DataError("No images.")

    monkeypatch.setattr("harness.training.loop.load_data", missing)
    result = bench("calibrate", "-m", "hvae", "-m", "iwae", *QUICK)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[1:] == ["bench: No images."]
