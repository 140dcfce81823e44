"""The files of journals: each belongs to one process at a time, and what a dead one left goes to the next who looks."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("broker.exactly_once")

_MOST: Final = 10_000
"""Journals of one directory at most; as many processes on one machine have other troubles."""
_PATIENCE: Final = 1.0
"""Seconds for a look into a file of somebody else's."""
_NEIGHBOURS: Final = 1000
"""Directories looked into at most."""


class Book:
    """One file, ours until it is put back or this process ends, however it ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def url(self) -> str:
        """As a database."""
        return f"sqlite+aiosqlite:///{self.path}"

    def set_aside(self, why: BaseException) -> None:
        """Out of everybody's way, with what belongs to it, for somebody to look at; a new one is begun in its place.

        Raises:
            OSError: it cannot be renamed.
        """
        number, aside = 0, self.path.with_name(f"{self.path.name}.damaged")
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged.{number}")
        for part in ("-shm", "-wal", ""):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + part).rename(aside.with_name(aside.name + part))
        log.error(
            "journal %s is damaged (%s) and is now %s: events in it may not have reached their streams, and nobody "
            "sends them; `sqlite3 FILE .recover` reads what can be read: rows of gamebroker_outbox without sent_at",
            self.path,
            str(why).split("\n", 1)[0],
            aside,
        )

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


def tell_of_stranded(directory: Path) -> None:
    """Log what waits in the directories beside this one, those of other servers and users, where nobody is at work.

    A process that was killed left it, and none has come since that names servers and user in the same way.
    """
    with suppress(OSError):
        beside = [each for each in sorted(directory.parent.iterdir()) if each != directory and each.is_dir()]
        for each in beside[:_NEIGHBOURS]:
            if waiting := _stranded(each):
                log.warning(
                    "%d events wait in the journal %s for a server or user that is named in another way than ours; "
                    "nobody is at work there, so nobody sends them. A program that connects to their server and calls "
                    "keep_journal() with this directory does",
                    waiting,
                    each,
                )


def _stranded(directory: Path) -> int:
    books: list[Book] = []
    try:
        for path in sorted(directory.glob("*.db"))[:_MOST]:
            if (book := Shelf._take(path)) is None:  # noqa: SLF001 - of the same file
                return 0  # who has it sees to the others
            books.append(book)
        return sum(_waiting(book.path) for book in books)
    except OSError:  # somebody else's
        return 0
    finally:
        for book in books:
            book.put_back()


def _waiting(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as file:
            found = file.execute("SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NULL").fetchone()
    except sqlite3.Error as exc:
        log.warning("journal %s cannot be read: %s", path, exc)
        return 0
    return int(found[0])
