"""Settlements on the wire: each goes to the reply subject of its delivery, a batch in one write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import frames
from broker.backends.nats.convert import nanoseconds
from broker.contracts.errors import AckUnknown, BrokerError, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Collection

    from broker.backends.nats.session import Session
    from broker.contracts.envelopes import Delivery

_ACK: Final = b""
"""An empty settlement means done, and is the shortest."""
_CONFIRMED_ACK: Final = b"+ACK"
_NAK: Final = b"-NAK"
_WORKING: Final = b"+WPI"
_TERM: Final = b"+TERM"
_LONGEST_REASON: Final = 512
"""Bytes of a reason that the server is told, as of that in a dead letter; above ``max_payload`` it would hang up."""


class Settling:
    """Sends settlements. While disconnected they are lost, and the server hands the messages out again."""

    def __init__(self, session: Session) -> None:
        self._link = session.link
        self._replies = session.replies
        self._board = session.board

    def ack(self, deliveries: Collection[Delivery]) -> None:
        """Done."""
        self._all(deliveries, _ACK)

    def extend(self, deliveries: Collection[Delivery]) -> None:
        """Still working."""
        self._all(deliveries, _WORKING)

    def nak(self, deliveries: Collection[Delivery], delay: float) -> None:
        """Given back."""
        self._all(deliveries, b'-NAK {"delay": %d}' % nanoseconds(delay) if delay > 0 else _NAK)

    def term(self, delivery: Delivery, reason: str) -> None:
        """Never again."""
        words = " ".join(reason.split()).encode("utf-8", "replace")[:_LONGEST_REASON]
        self._all((delivery,), _TERM + b" " + words if words else _TERM)

    async def confirm(self, delivery: Delivery, timeout: float) -> None:
        """Done, and the server said that it knows.

        Raises:
            AckUnknown: it did not.
        """
        self._board.check_loop()
        try:
            await self._confirmed(delivery, timeout)
        except BrokerError as exc:
            told = f"the ack of {delivery.stream}#{delivery.sequence} was not confirmed: {exc}"
            raise AckUnknown(told, subject=delivery.subject, stream=delivery.stream) from exc

    async def _confirmed(self, delivery: Delivery, timeout: float) -> None:
        token: Any = delivery.token
        reply, answer = self._replies.request(token.decode(), timeout)
        try:
            if not self._link.send_stream(frames.pub(frames.pub_head(token, reply), _CONFIRMED_ACK)):
                raise ConnectionLost("not connected")
            await answer
        finally:
            self._replies.abandon(reply)

    def _all(self, deliveries: Collection[Delivery], word: bytes) -> None:
        self._board.check_loop()
        if not deliveries:
            return
        tokens: list[Any] = [delivery.token for delivery in deliveries]
        rest = b" %d\r\n%b\r\n" % (len(word), word)
        self._link.send_stream(b"PUB " + (rest + b"PUB ").join(tokens) + rest)
