"""A database that is away is waited for, unless the process is asked to stop."""

from __future__ import annotations

import threading
import time

import pytest

from harness.base.errors import LeaseLost, StoreError
from harness.base.stop_request import StopRequest
from harness.execution import job
from harness.execution.job import with_retry


class Away:
    """A question to a database that does not answer for so many times."""

    def __init__(self, times, error=StoreError):
        self.times, self.error, self.asked = times, error, 0

    def __call__(self, answer):
        self.asked += 1
        if self.asked <= self.times:
            raise self.error("away")
        return answer


def test_what_a_database_answers_later_is_returned(monkeypatch):
    monkeypatch.setattr(job, "RETRY_S", 0.01)
    away = Away(3)
    assert with_retry(StopRequest(), away, "here") == "here"
    assert away.asked == 4


def test_a_database_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(job, "RETRY_S", 0.01)
    monkeypatch.setattr(job, "STORE_PATIENCE_S", 0.1)
    with pytest.raises(StoreError, match="away"):
        with_retry(StopRequest(), Away(10**9), "here")


def test_a_lost_lease_is_not_waited_for():
    away = Away(10**9, LeaseLost)
    with pytest.raises(LeaseLost):
        with_retry(StopRequest(), away, "here")
    assert away.asked == 1


def test_a_request_to_stop_ends_the_wait_after_another_try():
    stop, away = StopRequest(), Away(10**9)
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoreError, match="away"):
        with_retry(stop, away, "here")
    assert away.asked == 2
    assert time.monotonic() - began < job.STORE_PATIENCE_S / 3


def test_where_the_stop_was_asked_for_before_there_is_one_try():
    stop, away = StopRequest(), Away(1)
    stop.set()
    with pytest.raises(StoreError, match="away"):
        with_retry(stop, away, "here")
    assert with_retry(stop, away, "here") == "here"
