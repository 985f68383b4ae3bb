"""What a command writes: results to standard output or a file, everything else to standard error.

What plugins and libraries print goes to standard error too. A result that cannot be written ends no
work: the command goes on, saves what it computes, and then reports the failure.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click

from harness.base.errors import UsageError, harmless

_results: list[TextIO] = []  # the stream for results while a command runs


def results() -> TextIO:
    """Return the stream for results."""
    return _results[-1] if _results else sys.stdout


def say(text: object, err: bool = False, nl: bool = True) -> None:
    """Print a text that cannot steer a terminal, wherever its names and reasons come from."""
    click.echo(harmless(str(text)), None if err else results(), err=err, nl=nl)


def print_json(values: Iterable[Any]) -> None:
    """Print one JSON object a line on stdout."""
    for value in values:
        text = json.dumps(value, ensure_ascii=False)
        click.echo(text if text.isprintable() else json.dumps(value), results())


def write_out(content: bytes, output: Path | None) -> None:
    """Write a whole file or nothing, or print where `output` is None.

    Raises:
        UsageError: it cannot be written.
    """
    with out_file(output) as file:
        file.write(content)


@contextlib.contextmanager
def out_file(output: Path | None) -> Iterator[BinaryIO]:
    """Open a file to fill piece by piece; it appears, whole, when the block has ended well.

    Without a file, or where stdout is named, the content is printed.

    Raises:
        UsageError: it cannot be written.
    """
    if output is None or str(output) in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        results().flush()
        yield results().buffer
        results().buffer.flush()
        return
    from harness.base.files import atomic_file

    is_special = output.exists() and not output.is_file()  # a pipe or a device is not replaced
    try:
        with output.open("wb") if is_special else atomic_file(output) as file:
            yield file
            size = "" if is_special else f" ({file.tell():,} bytes)"
    except OSError as err:
        raise UsageError(f"Cannot write {output}: {err.strerror or err}.") from err
    say(f"Wrote {output}{size}.", err=True)


def with_clean_stdout(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that whatever else is printed while it runs goes to standard error."""

    @functools.wraps(callback)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _results.append(results())
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return callback(*args, **kwargs)
        finally:
            _results.pop()

    return wrapped


@contextlib.contextmanager
def own_streams() -> Iterator[None]:
    """Set up the streams of a command's process, down to the descriptors.

    Exits with status 1 where a result could not be written. A closed stream is opened on the null
    device, so that no database gets its number: for writing, except for standard output.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free
    # where nobody reads any more, a command that only prints may end at once
    file = _LenientFile(os.dup(1), (BrokenPipeError,))
    os.dup2(2, 1)
    stdout = _text(file, sys.stdout)
    sys.stderr = _text(_LenientFile(os.dup(2)), sys.stderr, line_buffering=True)
    sys.stdout = stdout
    try:
        yield
    finally:
        sys.stdout = sys.stderr
        with contextlib.suppress(BrokenPipeError):
            stdout.flush()
        if file.error is not None:
            os.dup2(1, file.fileno())
            if not isinstance(file.error, BrokenPipeError):
                closed = file.error.errno == errno.EBADF
                reason = "it is closed" if closed else file.error.strerror
                print(
                    f"bench: Cannot write to standard output: {reason}. "
                    "Runs that have ended are stored; the same command prints them.",
                    file=sys.stderr,
                )
            raise SystemExit(1)


class _LenientFile(io.FileIO):
    """A descriptor that keeps its first write error and raises only those of `raised`."""

    def __init__(self, number: int, raised: tuple[type[OSError], ...] = ()) -> None:
        super().__init__(number, "w")
        self.error: OSError | None = None
        self._raised = raised

    def write(self, content: Any, /) -> int | None:
        """Write as a file does, or report success where it failed."""
        try:
            return super().write(content)
        except OSError as err:
            self.error = self.error or err
            if isinstance(err, self._raised):
                raise
            return memoryview(content).nbytes


def _text(file: io.FileIO, previous: TextIO | None, line_buffering: bool = False) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        "utf-8" if previous is None else previous.encoding,
        "backslashreplace",
        line_buffering=line_buffering or file.isatty(),
    )
