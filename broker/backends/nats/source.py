"""One worker's deliveries: fetched within the caller's credit, settled, watched, and repaired when they break."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from broker.backends.nats import settling
from broker.backends.nats.intake import Intake, Rhythm
from broker.backends.nats.session import Listener
from broker.contracts.backend import DeliverySource
from broker.contracts.errors import (
    ApiError,
    BrokerClosed,
    BrokerError,
    ConsumerNotFound,
    PermissionDenied,
    RequestTimeout,
    StreamNotFound,
)
from broker.contracts.events import ConsumerEventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.backends.nats.presence import Presence
    from broker.backends.nats.session import Session
    from broker.contracts.envelopes import Delivery
    from broker.contracts.events import Observe

_log: Final = logging.getLogger("broker.nats")
DEFAULT_RHYTHM: Final = Rhythm()
_MISSED: Final = 2
_PARTING: Final = 1.0
_QUIET: Final = 0.005
_QUIET_ROUNDS: Final = 20
_EXTENDS_PER_WAIT: Final = 3
_SIGNS_PER_THRESHOLD: Final = 4
_UNASKED: Final = 2
"""Heartbeats without a fetch after which the pulls that are out are called back: the others in the group go first."""


class NatsSource(DeliverySource, Listener):
    """A pull consumer as one worker sees it.

    ``presence`` knows how to find out whether the consumer is still there and where its group stands. One that the
    server removes when nobody has asked for ``threshold`` seconds is kept as long as the source is open.
    """

    def __init__(
        self,
        session: Session,
        presence: Presence,
        *,
        ack_wait: float | None,
        threshold: float | None = None,
        rhythm: Rhythm = DEFAULT_RHYTHM,
        intake: type[Intake] | Callable[..., Intake] = Intake,
    ) -> None:
        self.stream = presence.stream
        self.consumer = presence.consumer
        self._session = session
        self._presence = presence
        self._loop = asyncio.get_running_loop()
        self._intake = intake(session, self.stream, self.consumer, rhythm, self._examine)
        self._settle = settling.Settling(session)
        self._closing: asyncio.Task[None] | None = None
        self._moved = False
        self._silent = 0
        self._polled_at = 0
        self._check: asyncio.Task[None] | None = None
        self._hold = ack_wait / _EXTENDS_PER_WAIT if ack_wait is not None else None
        self._extend_at = 0.0
        self._stay = threshold / _SIGNS_PER_THRESHOLD if threshold is not None else None
        self._sign_at = 0.0
        self._fetched_at = self._loop.time()
        self._every = rhythm.tick or rhythm.heartbeat
        self._missed = round(_MISSED * rhythm.heartbeat / self._every)
        self._tick_at = self._loop.time() + self._every
        self._ticker = self._loop.call_at(self._tick_at, self._tick)
        session.listen(self)

    # -- fetching -----------------------------------------------------------------------------------------------------

    @property
    def resume_sequence(self) -> int | None:
        """See ``DeliverySource``."""
        return self._presence.resume_sequence

    def listen(self) -> None:
        """Begin to take what is sent without being asked for."""
        self._intake.ask_again()

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """See ``DeliverySource``."""
        self._session.board.check_loop()
        intake = self._intake
        if max_bytes is not None:
            intake.allow_bytes(max_bytes)
        buffer = intake.buffer
        if not buffer:
            intake.raise_failure()
            try:
                await intake.arrival(limit, timeout)
            finally:
                self._fetched_at = self._loop.time()
            if not buffer:
                intake.raise_failure()
        if len(buffer) <= limit:
            taken = list(buffer)
            buffer.clear()
        else:
            taken = [buffer.popleft() for _ in range(limit)]
        self._fetched_at = self._loop.time()
        intake.top_up(limit - len(taken))
        return taken

    # -- settling -----------------------------------------------------------------------------------------------------

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        self._moved = True
        self._settle.ack(deliveries)

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """See ``DeliverySource``."""
        self._moved = True
        await self._settle.confirm(delivery, timeout)

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """See ``DeliverySource``."""
        self._settle.nak((delivery,), delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """See ``DeliverySource``."""
        self._moved = True
        self._settle.term(delivery, reason)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        self._settle.extend(deliveries)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Once a heartbeat: are the pulls alive, does the group move, do buffered messages need more time."""
        now = self._loop.time()
        late = now - self._tick_at > self._every / 2
        self._tick_at = now + self._every
        self._ticker = self._loop.call_at(self._tick_at, self._tick)
        if not self._session.connected:
            self._silent = 0
            return
        intake = self._intake
        if intake.overdue(now):
            self._examine()
        self._watch_silence(late=late)
        if self._presence.polls and (self._moved or intake.received != self._polled_at):
            self._moved = False
            self._polled_at = intake.received
            self._examine(repair=False)
        if self._hold is not None:
            self._keep_or_give_back(now, self._hold)
        if self._stay is not None and not intake.owed and now >= self._sign_at:
            self._sign_at = now + self._stay
            intake.show_up()

    def _keep_or_give_back(self, now: float, hold: float) -> None:
        """What is buffered needs more time; what nobody fetched for a whole ack wait is for the others in the group."""
        intake = self._intake
        unasked = 0.0 if intake.waited_for else now - self._fetched_at
        if intake.owed and unasked > _UNASKED * self._every:
            intake.renew()
        if not intake.buffer or now < self._extend_at:
            return
        if unasked > hold * _EXTENDS_PER_WAIT and not intake.keeps:
            self._settle.nak(intake.buffer, 0)
            intake.buffer.clear()
            return
        self._extend_at = now + hold
        self._settle.extend(intake.buffer)

    def _watch_silence(self, *, late: bool) -> None:
        """Count heartbeats that did not come; when this process itself was late, what it missed proves nothing."""
        intake = self._intake
        if intake.heard or not intake.owed:
            self._silent = 0
        elif not late:
            self._silent += 1
        intake.heard = False
        if self._silent >= self._missed:
            self._silent = 0
            if intake.beats:
                self._tell_silence()
            intake.renew()
            self._examine()
            intake.ask_again()

    def _tell_silence(self) -> None:
        _log.warning("no heartbeat of consumer %s on %s, asking anew", self.consumer, self.stream)
        if self._intake.observe is not None:
            self._intake.observe(ConsumerEventKind.HEARTBEATS_MISSED, f"{_MISSED} in a row")

    def _examine(self, *, repair: bool = True) -> None:
        """Find out whether the consumer is there; ``repair`` asks again when it is."""
        if self._closing is not None:
            return
        if self._check is not None and not self._check.done():
            if repair:
                self._intake.ask_later()
            return
        self._check = self._loop.create_task(self._look(repair=repair))

    async def _look(self, *, repair: bool) -> None:
        try:
            await self._presence.look()
        except PermissionDenied as exc:
            if repair:
                self._intake.fail(exc)
            self._presence.polls = False
            return
        except (ConsumerNotFound, StreamNotFound) as exc:
            self._intake.fail(exc)
            return
        except BrokerError as exc:
            _log.debug("consumer %s on %s cannot be examined: %s", self.consumer, self.stream, exc)
            if repair and self._hold is None and isinstance(exc, RequestTimeout | ApiError):
                # A reader's consumer has one copy and holds nothing: a new one, where servers are alive, costs less
                # than waiting for a server that may never come back.
                told = f"consumer {self.consumer!r} does not answer"
                self._intake.fail(ConsumerNotFound(told, stream=self.stream))
                return
        if repair:
            self._intake.ask_later()

    def watch(self, observe: Observe) -> None:
        """See ``DeliverySource``."""
        self._intake.observe = observe

    # -- the end ------------------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """See ``DeliverySource``. Pulls are called back and what they brought goes back; what is pushed is kept."""
        intake = self._intake
        if self._closing is not None or intake.keeps:
            return
        if self._session.connected:
            await self._until_quiet(intake.owed)
            intake.renew()
            await self._confirmed()
        self._settle.nak(intake.buffer, 0)
        intake.buffer.clear()

    async def close(self) -> None:
        """See ``DeliverySource``. Once begun it goes on by itself, also when the one who closes is cancelled."""
        if self._closing is None:
            self._ticker.cancel()
            if self._check is not None:
                self._check.cancel()
            owed = self._intake.owed
            self._intake.fail(BrokerClosed("the source was closed"))
            self._closing = self._loop.create_task(self._part(owed), name=f"close {self.consumer}")
        await asyncio.shield(self._closing)

    async def _part(self, owed: int) -> None:
        try:
            if self._session.connected:
                await self._leave(owed)
        finally:
            self._session.unlisten(self)
            self._intake.lose()
            if self._hold is not None:
                self._settle.nak(self._intake.buffer, 0)
            self._intake.buffer.clear()
        if self._session.connected:
            with suppress(BrokerError):
                await self._presence.leave(self._intake.pinned_in)

    async def _leave(self, owed: int) -> None:
        """Stop the deliveries so that none is lost on the way.

        A message the server has picked for us, but finds nobody to give to, would wait out its ack wait. So pulls that
        are being filled get a moment to fill up, and what arrives until the server confirms our leaving is given back.
        """
        await self._until_quiet(owed)
        if self._intake.unsubscribe():
            await self._confirmed()

    async def _until_quiet(self, owed: int) -> None:
        intake = self._intake
        end = intake.received + owed
        for _ in range(_QUIET_ROUNDS):
            before = intake.received
            if before >= end:
                break
            await asyncio.sleep(_QUIET)
            if intake.received == before:
                break

    async def _confirmed(self) -> None:
        """The server has heard that we take nothing more; what it sent before is here."""
        try:
            await self._session.confirm(_PARTING)
        except BrokerError as exc:
            _log.debug("leaving consumer %s on %s was not confirmed: %s", self.consumer, self.stream, exc)

    # -- session events -----------------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """See ``Listener``."""
        self._intake.lose()

    def on_restored(self) -> None:
        """Ask again at once, and look whether the consumer survived."""
        self._silent = 0
        self._intake.ask_again()
        if self._presence.polls:
            self._examine(repair=False)

    def on_ended(self, error: BrokerError) -> None:
        """See ``Listener``."""
        self._intake.fail(error)
        self._ticker.cancel()

    def on_violation(self, error: PermissionDenied) -> None:
        """See ``Listener``."""
        ours = {("publish", self._intake.target), ("subscribe", self._intake.inbox_pattern)}
        if (error.verb, error.subject) in ours:
            self._intake.fail(error)

    def on_complaint(self, text: str) -> None:
        """Not about a consumer."""
