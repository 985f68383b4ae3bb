"""What is kept of a traceback: the user's lines, no password, nothing that steers a terminal, and
not too much.
"""

from __future__ import annotations

from harness.base.tracebacks import FIRST, LAST, place_in, traceback_of


def caught(work):
    """What is kept of the traceback of what `work` raises."""
    try:
        work()
    except Exception as error:  # noqa: BLE001
        return traceback_of(error)
    raise AssertionError("nothing was raised")


def test_passwords_and_escapes_are_not_kept_and_products_of_matrices_are():
    def connect():
        weights = {"a": 2.0}
        weights["a"] @ 1.0

    def tell():
        raise ValueError("no answer at postgresql://ada:secret@host/bench\x1b[31m")

    assert 'weights["a"] @ 1.0' in caught(connect)
    told = caught(tell)
    assert "secret" not in told
    assert "postgresql://ada:***@host/bench\\x1b[31m" in told


def test_of_a_long_traceback_both_ends_are_kept():
    def even(depth):
        odd(depth - 1) if depth else 1 / 0

    def odd(depth):
        even(depth - 1) if depth else 1 / 0

    kept = caught(lambda: even(60)).splitlines()
    assert len(kept) == FIRST + LAST + 1
    assert "in caught" in kept[1]
    assert kept[-1] == "ZeroDivisionError: division by zero"


def test_the_place_is_the_last_one_in_the_plugins_folder():
    frames = ["/home/ada/mine.py", "/home/ada/nets.py", "/usr/lib/torch/nn/linear.py"]
    text = "\n".join(
        f'  File "{path}", line {number}, in f{number}' for number, path in enumerate(frames, 1)
    )
    assert (
        place_in(f"Traceback (most recent call last):\n{text}\nValueError: no") == "nets.py:2 in f2"
    )
    assert place_in("SyntaxError: no") is place_in(None) is None
