"""Standard output carries a command's results and nothing else; what plugins and libraries print
goes to standard error.

A result that cannot be written ends no work: the command goes on, saves what it makes, and then
says so.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_results: list[TextIO] = []  # where they go while a command is at work


def results() -> TextIO:
    """The stream for results."""
    return _results[-1] if _results else sys.stdout


def separating(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A command's function, during which whatever else is printed goes to standard error."""

    @functools.wraps(callback)
    def separated(*arguments: Any, **named: Any) -> Any:
        _results.append(results())
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return callback(*arguments, **named)
        finally:
            _results.pop()

    return separated


class _Lenient(io.FileIO):
    """A descriptor whose faults stop nobody, but for those of `stopping`; the first one is kept."""

    def __init__(self, number: int, stopping: tuple[type[OSError], ...] = ()) -> None:
        super().__init__(number, "w")
        self.fault: OSError | None = None
        self._stopping = stopping

    def write(self, content: Any, /) -> int | None:
        """As a file's, or as if it had been written."""
        try:
            return super().write(content)
        except OSError as err:
            self.fault = self.fault or err
            if isinstance(err, self._stopping):
                raise
            return memoryview(content).nbytes


def _text(file: io.FileIO, former: TextIO | None, lines: bool = False) -> TextIO:
    encoding = "utf-8" if former is None else former.encoding
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, "backslashreplace", line_buffering=lines or file.isatty()
    )


@contextlib.contextmanager
def own_streams() -> Iterator[None]:
    """Set up the process's streams for a command line, to the level of descriptors; a result that
    was not written is exit status 1.

    A closed stream is opened on the null device, so that no database gets its number: to be written
    to, but for standard output.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free
    raw = _Lenient(
        os.dup(1), (BrokenPipeError,)
    )  # where nobody reads on, what only prints may end at once
    os.dup2(2, 1)
    stream, sys.stderr = _text(raw, sys.stdout), _text(_Lenient(os.dup(2)), sys.stderr, lines=True)
    sys.stdout = stream
    try:
        yield
    finally:
        sys.stdout = sys.stderr
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
        if raw.fault is not None:
            os.dup2(1, raw.fileno())
            _end_without_results(raw.fault)


def _end_without_results(fault: OSError) -> None:
    if not isinstance(fault, BrokenPipeError):
        reason = "it is closed" if fault.errno == errno.EBADF else fault.strerror
        advice = "Runs that were made are stored; the same command prints them."
        print(f"bench: Cannot write to standard output: {reason}. {advice}", file=sys.stderr)
    raise SystemExit(1)
