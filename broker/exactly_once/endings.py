"""What ends a transaction, or begins another one: recognized in SQL before it is sent, and by SQLite itself.

The text is what both databases are told apart by before a statement leaves; SQLite is asked besides, by its authorizer,
whenever it prepares a statement, whichever way that came.
"""

from __future__ import annotations

import re
import sqlite3
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from broker.exactly_once.trouble import causes

if TYPE_CHECKING:
    from collections.abc import Iterator

_MENTIONED: Final = re.compile(r"commit|end|rollback|abort|prepare", re.IGNORECASE)
_TOKEN: Final = re.compile(
    r"""--[^\n]* | /\* | ; | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
        | \$((?:[^\W\d]\w*)?)\$.*?\$\1\$ | [^\W\d][\w$]*""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT: Final = re.compile(r"/\*|\*/")
_WORDS: Final = 3
"""``ROLLBACK TRANSACTION TO``: what is looked at of a statement."""
_LONGEST: Final = 2_000
"""Characters of a statement whose answer is kept."""


def ending(statement: str) -> str | None:
    """What in it would end the transaction, such as ``"COMMIT"``; ``None``: nothing. ROLLBACK TO is a savepoint's."""
    return _kept(statement) if len(statement) <= _LONGEST else _ending(statement)


def _ending(statement: str) -> str | None:
    if _MENTIONED.search(statement) is None:
        return None
    for words in _statements(statement):
        if words[0] == "PREPARE" and words[1:2] == ["TRANSACTION"]:
            return "PREPARE TRANSACTION"
        if words[0] in {"COMMIT", "END", "ROLLBACK", "ABORT"} and "TO" not in words:
            return words[0]
    return None


_kept = lru_cache(maxsize=512)(_ending)


def _statements(text: str) -> Iterator[list[str]]:
    """The first words of each statement, without comments and quotes, in PostgreSQL's reading of them."""
    words: list[str] = []
    at, bodies = 0, 0
    while (found := _TOKEN.search(text, at)) is not None:
        at, part = found.end(), found[0]
        if part == "/*":
            at = _behind_comment(text, at)
        elif part == ";":
            if words:
                yield words
            words = []
        elif part[0].isalpha() and part[-1] != "'":
            word = part.upper()
            if word == "BEGIN" and words:  # a body, of a trigger or BEGIN ATOMIC; its END ends nothing else
                bodies += 1
            if word == "END" and not words and bodies:
                bodies -= 1
                word = "BODY"
            if len(words) < _WORDS:
                words.append(word)
    if words:
        yield words


def _behind_comment(text: str, at: int) -> int:
    """Comments nest."""
    depth = 1
    while depth and (found := _COMMENT.search(text, at)) is not None:
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return len(text) if depth else at


class Guard:
    """Asked by SQLite about each statement that it prepares: while it is shut, none may commit, or begin anew.

    So are the driver's own ``commit()``, a script, and the BEGIN that Python puts before a statement when something has
    rolled the transaction back (``OR ROLLBACK``, a full disk); a SAVEPOINT would begin one as well. A rollback is let
    through: nothing stands then, and that is found out.

    Attributes:
        shut: whether it says no.

    Args:
        driver: aiosqlite's connection, that asks.
    """

    __slots__ = ("_driver", "shut")

    def __init__(self, driver: Any) -> None:
        self.shut = False
        self._driver = driver

    @property
    def in_transaction(self) -> bool:
        """Whether its connection is in one."""
        return bool(self._driver.in_transaction)

    async def stand(self) -> None:
        """Be asked from now on. Not for each transaction: SQLite prepares everything anew then."""
        await self._driver.set_authorizer(self)

    def ask_anew(self) -> None:
        """Have SQLite prepare everything anew before whatever is sent next, a COMMIT that it has kept among it."""
        ask = partial(self._driver._conn.set_authorizer, self)  # noqa: SLF001 - Python's own connection
        if (tell := getattr(self._driver, "tell", None)) is not None:
            tell(ask)
        else:
            self._driver._tx.put_nowait((None, ask))  # noqa: SLF001 - into its thread, from where nothing can be awaited

    def __call__(self, action: int, verb: str | None, *_: object) -> int:
        """SQLite's question."""
        refused = self.shut and (
            (action == sqlite3.SQLITE_TRANSACTION and verb != "ROLLBACK")
            or (action == sqlite3.SQLITE_SAVEPOINT and verb == "BEGIN" and not self.in_transaction)
        )
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def was_refused(error: BaseException) -> bool:
    """Whether a guard's refusal is behind it."""
    return any(getattr(each, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH for each in causes(error))
