"""What a push consumer sends: kept until it is fetched, with the server told how far we are."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.backends.nats import frames
from broker.backends.nats.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.nats.intake import Rhythm
    from broker.backends.nats.pulls import Pulls
    from broker.backends.nats.session import Session

_CONTROL: Final = b"NATS/1.0 100"
_STALLED: Final = re.compile(rb"\r\nNats-Consumer-Stalled: *(\S+)", re.IGNORECASE)


class PushIntake(Intake):
    """Asks for nothing: it listens, and the consumer's ``max_ack_pending`` and flow control bound what may come.

    The server asks from time to time how far we are (flow control) and goes on when it is answered; the answer is
    given when what came before the question was fetched, so that a slow worker slows the server down.
    """

    def __init__(
        self,
        session: Session,
        stream: str,
        consumer: str,
        rhythm: Rhythm,
        examine: Callable[[], None],
        *,
        subject: str,
        group: str | None,
    ) -> None:
        super().__init__(session, stream, consumer, rhythm, examine)
        self.target = ""
        self._subject = subject.encode()
        self._group = group
        self._question: tuple[int, bytes] | None = None

    @property
    def owed(self) -> int:
        """There is always something that may come."""
        return 1

    @property
    def inbox_pattern(self) -> str:
        """What is subscribed to now."""
        return self._subject.decode()

    @property
    def beats(self) -> bool:
        """A group's signs of life reach one of its members, so that none can count on them."""
        return self._group is None

    @property
    def keeps(self) -> bool:
        """What is given back would be sent to us again."""
        return True

    def top_up(self, room: int) -> None:
        """Listen, and tell the server how far we are."""
        del room
        if not self._sid and self.failure is None and self._session.connected:
            self._sid = self._session.link.subscribe(self._subject, self._group, partial(self._receive, self._pulls))
        self._answer_question()

    def ask_again(self) -> None:
        """Listen again, when we do not."""
        self._again = None
        self.top_up(1)

    def renew(self) -> None:
        """Nothing was asked for."""

    def lose(self) -> None:
        """Nothing more can arrive, and whoever asked how far we are does not wait any more."""
        super().lose()
        self._question = None

    def _receive(self, pulls: Pulls, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        if block is not None and not data and block.startswith(_CONTROL):
            self._control(reply, block)
        else:
            super()._receive(pulls, subject, reply, data, block)

    def _control(self, reply: bytes, block: bytes) -> None:
        """A heartbeat, or the question how far we are; a heartbeat repeats a question that found no answer."""
        self.heard = True
        stalled = _STALLED.search(block)
        question = reply or (stalled[1] if stalled else b"")
        if question:
            self._question = (self.received, question)
            self._answer_question()

    def _answer_question(self) -> None:
        if self._question is not None and self._question[0] <= self.received - len(self.buffer):
            question, self._question = self._question[1], None
            self._session.link.send_stream(frames.pub(frames.pub_head(question), b""))
