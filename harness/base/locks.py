"""Locks on files: they go with the process that holds them, however it ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file until the block ends, and yield whether this process holds it.

    Args:
        path: the lock file, which is created where it is missing and stays.
        wait: wait until the lock is free, rather than yield False.

    Raises:
        OSError: the file cannot be written.
    """
    import filelock  # takes longer to import than most commands to run

    if not path.parent.is_dir():  # which filelock would make
        raise NotADirectoryError(errno.ENOTDIR, "No such folder", str(path.parent))
    lock = filelock.FileLock(path, timeout=-1 if wait else 0, mode=0o666)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
