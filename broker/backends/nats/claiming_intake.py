"""Asking within a priority group: what is claimed goes along with every pull, and so does the pin once we have it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import orjson

from broker.backends.nats import frames
from broker.backends.nats.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.nats.intake import Rhythm
    from broker.backends.nats.pulls import Pulls
    from broker.backends.nats.session import Session
    from broker.contracts.claims import Claim

_PIN: Final = re.compile(rb"\r\nNats-Pin-Id: *(\S+)", re.IGNORECASE)
_WRONG_PIN: Final = 423


class ClaimingIntake(Intake):
    """Pulls with a claim. Pinned, it says so; told that another one is, it stands by without a pin.

    Attributes:
        pin: ours, as the server gave it; empty when we have none.
    """

    def __init__(
        self,
        session: Session,
        stream: str,
        consumer: str,
        rhythm: Rhythm,
        examine: Callable[[], None],
        *,
        claim: Claim,
    ) -> None:
        super().__init__(session, stream, consumer, rhythm, examine)
        asked = {
            "group": claim.group,
            "min_pending": claim.min_pending,
            "min_ack_pending": claim.min_ack_pending,
            "priority": claim.priority,
        }
        said = orjson.dumps({name: value for name, value in asked.items() if value is not None})
        self._group = claim.group
        self._claim = b"," + said[1:-1]
        self.pin = b""
        self._more = self._claim

    @property
    def pinned_in(self) -> str | None:
        """See ``Intake``."""
        return self._group if self.pin else None

    def _receive(self, pulls: Pulls, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        if block is not None:
            self._look_for_pin(reply, block)
        super()._receive(pulls, subject, reply, data, block)

    def _look_for_pin(self, reply: bytes, block: bytes) -> None:
        if reply:
            found = _PIN.search(block)
            if found is not None and found[1] != self.pin:
                self._carry(found[1])
        elif frames.parse_status(block)[0] == _WRONG_PIN:
            self._carry(b"")

    def _carry(self, pin: bytes) -> None:
        self.pin = pin
        self._more = b'%b,"id":"%b"' % (self._claim, pin) if pin else self._claim
