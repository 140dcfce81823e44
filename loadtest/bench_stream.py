"""The stream a run works on: made, filled, checked and deleted over a raw connection, the same for every client."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from loadtest.raw import RawConnection, hpub

if TYPE_CHECKING:
    from types import TracebackType

_PER_ANSWER: Final = 1000
"""Messages stored per awaited answer while filling: the server drops what overruns its queue of 10,000."""
_PATIENCE: Final = 5.0
_NS_PER_SECOND: Final = 1_000_000_000


class ApiRefusal(Exception):
    """The server's JetStream API said no."""


class BenchStream:
    """One file stream, R1; a context manager that makes and deletes it.

    Attributes:
        name: of the stream.
        subject: the one it captures.
    """

    def __init__(self, url: str, *, name: str, subject: str) -> None:
        self.name = name
        self.subject = subject
        self._url = url

    def __enter__(self) -> Self:
        config = {
            "name": self.name,
            "subjects": [self.subject],
            "storage": "file",
            "retention": "limits",
            "num_replicas": 1,
            "duplicate_window": 120 * _NS_PER_SECOND,
        }
        self._api(f"STREAM.CREATE.{self.name}", config)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api(f"STREAM.DELETE.{self.name}")

    def fill(self, count: int, body: bytes) -> None:
        """Store that many messages, each with an id of its own as a careful publisher sends it."""
        with RawConnection(self._url) as connection:
            for start in range(0, count, _PER_ANSWER):
                last = min(start + _PER_ANSWER, count) - 1
                connection.send(b"".join(self._frame(index, body) for index in range(start, last)))
                connection.answer_to(partial(self._frame, last, body))
        if (stored := self.stored()) != count:
            raise ApiRefusal(f"stored {stored} of {count} messages while filling {self.name}")

    def stored(self) -> int:
        """Messages in it now."""
        return int(self._api(f"STREAM.INFO.{self.name}")["state"]["messages"])

    def consumer(self, name: str) -> dict[str, Any]:
        """What the server says about a consumer, once nothing is unsettled any more or after some patience."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            told = self._api(f"CONSUMER.INFO.{self.name}.{name}")
            if not told["num_ack_pending"] or time.monotonic() > deadline:
                return told
            time.sleep(0.02)

    def _frame(self, index: int, body: bytes, reply: str = "") -> bytes:
        return hpub(self.subject, "Nats-Msg-Id", f"{self.name}-{index}", body, reply)

    def _api(self, verb: str, body: Any = None) -> dict[str, Any]:
        with RawConnection(self._url) as connection:
            return _told(connection, verb, body)


def delete_streams(url: str) -> None:
    """Empty a server that belongs to the benchmark alone, dead letters and leftovers of broken runs included."""
    with RawConnection(url) as connection:
        for name in _told(connection, "STREAM.NAMES").get("streams") or ():
            try:
                _told(connection, f"STREAM.DELETE.{name}")
            except ApiRefusal:
                continue


def _told(connection: RawConnection, verb: str, body: Any = None) -> dict[str, Any]:
    told = connection.request(f"$JS.API.{verb}", body)
    if error := told.get("error"):
        raise ApiRefusal(f"{verb}: {error.get('description', error)}")
    return told
