"""The pulls out on one inbox: how many messages the server still owes us. No I/O.

A message does not say which pull it answers, and the server fills waiting pulls in turn; a status does. So messages are
counted over all pulls, statuses close one, and pulls that must be over by now bound what can still be owed.
"""

from __future__ import annotations


class Pulls:
    """Counts what is owed. A new inbox gets new ``Pulls``: what an old one still brings was voided already."""

    __slots__ = ("_asked", "_next", "owed")

    def __init__(self) -> None:
        self.owed = 0
        self._asked: dict[bytes, tuple[int, float]] = {}
        self._next = 0

    def open(self, count: int, until: float) -> bytes:
        """A pull of ``count`` messages, over by ``until`` at the latest; returns its token."""
        self._next += 1
        token = b"%d" % self._next
        self._asked[token] = (count, until)
        self.owed += count
        return token

    def delivered(self) -> None:
        """One message arrived."""
        if self.owed:
            self.owed -= 1
            if not self.owed:
                self._asked.clear()

    def over(self, token: bytes, missing: int | None) -> bool:
        """A pull ended with ``missing`` messages not sent; ``None``: it was never accepted. Whether it was out."""
        asked, until = self._asked.pop(token, (0, 0.0))
        self.owed = max(self.owed - (asked if missing is None else min(missing, asked)), 0)
        return until > 0

    def overdue(self, now: float) -> bool:
        """Pulls whose time is up are over, told or not: no more can be owed than the others asked for.

        Whether one of them ended without a word, and without all its messages.
        """
        for token in [token for token, (_, until) in self._asked.items() if until < now]:
            del self._asked[token]
        owed, self.owed = self.owed, min(self.owed, sum(asked for asked, _ in self._asked.values()))
        return self.owed < owed

    def void(self) -> None:
        """Nothing is owed any more."""
        self._asked.clear()
        self.owed = 0


class Bytes:
    """How many bytes one request may bring. Then only one is out at a time, and none while its messages are here.

    Attributes:
        wanted: bytes at most that the caller asks for; ``None``: any number.
        allowed: bytes at most that the consumer takes a request for; ``None``: it does not say.
    """

    __slots__ = ("_alone", "_before", "allowed", "wanted")

    def __init__(self) -> None:
        self.wanted: int | None = None
        self.allowed: int | None = None
        self._alone = False
        self._before = 0

    @property
    def counted(self) -> bool:
        """Whether bytes matter at all."""
        return self.wanted is not None or self.allowed is not None

    def fit(self, count: int, received: int) -> int:
        """How many messages to ask for, now that so many were received: one, when it is too large for any request."""
        self._before = received
        return 1 if self._alone else count

    def most(self) -> int:
        """The bytes to ask for; 0 asks for any number."""
        alone, self._alone = self._alone, False
        if self.wanted is None or alone:
            return self.allowed or 0
        return self.wanted if self.allowed is None else min(self.wanted, self.allowed)

    def refused(self, received: int) -> bool:
        """A request ended before a message it had no room for; whether nothing at all fitted in: it comes alone."""
        self._alone = received == self._before
        return self._alone
