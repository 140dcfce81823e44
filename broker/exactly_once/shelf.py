"""The files of journals: each belongs to one process at a time, and what a dead one left goes to the next who looks."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST: Final = 10_000
"""Journals of one directory at most; as many processes on one machine have other troubles."""


class Book:
    """One file, ours until it is put back or this process ends, however it ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def url(self) -> str:
        """As a database."""
        return f"sqlite+aiosqlite:///{self.path}"

    def put_back(self) -> None:
        """Let others have it. Idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class Shelf:
    """A directory of them; made when it is missing, for this user alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self) -> Book:
        """The first that nobody has, so that what is in it is seen to; a new one when others have all.

        Raises:
            OSError: the directory cannot be used.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_MOST):
            if (book := self._take(self._directory / f"{number}.db")) is not None:
                return book
        raise OSError(f"{_MOST} journals are in use in {self._directory}")

    def left(self) -> Iterator[Book]:
        """Those with something in them that nobody has, one by one; each is the caller's to put back."""
        for path in sorted(self._directory.glob("*.db")):
            if (book := self._take(path)) is not None:
                yield book

    @staticmethod
    def _take(path: Path) -> Book | None:
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return Book(path, lock)
