"""Handling events: the contract of the type picks the tier, and the worker is checked before it takes anything."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from broker.applying import SomeFailed, check_inbox
from broker.consumer_builder import Working
from broker.contracts.checks import check_kind
from broker.contracts.errors import InvalidOption, PermissionDenied
from broker.contracts.event_errors import MalformedEvent, Problem
from broker.contracts.options import ConsumeOptions, check_ensure
from broker.quality.requirements import of_attempts, of_stream, of_worker
from broker.quality.vetting import stream_of, vet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.applying import Applied, Inbox
    from broker.contracts.backend import StreamBackend
    from broker.contracts.event_contracts import Contract
    from broker.contracts.options import Ensure, Overflow, StreamOptions
    from broker.messages import StreamMessage
    from broker.quality.decoding import Decoding
    from broker.quality.stats import ContractStats

log = logging.getLogger("broker.quality")

CORE_OPTIONS: Final = frozenset({"queue", "pending_limit", "overflow"})
"""What ``on`` takes at QoS 0: the options of ``subscribe``."""


class EventOptions(Working, total=False):
    """What ``on`` takes besides: the options of ``subscribe`` at QoS 0, those of ``consume`` at the others."""

    queue: str | None
    pending_limit: int
    overflow: Overflow
    durable: str | None
    max_ack_pending: int
    ack_wait: float
    ordered: bool
    inbox: Inbox | None
    stream: str | None
    ensure: Ensure
    metadata: Mapping[str, str] | None
    headers_only: bool
    priority_group: str | None
    min_pending: int | None
    min_ack_pending: int | None
    priority: int | None


STREAM_OPTIONS: Final = frozenset(EventOptions.__optional_keys__) - {"pending_limit", "overflow"}
"""What it takes at QoS 1 and 2."""


class Retrying(TypedDict, total=False):
    """Of those, what decides how long a message is tried."""

    max_deliver: int
    backoff: Any


async def check_core(
    contract: Contract, backend: StreamBackend, options: Mapping[str, Any], *, idempotent: bool
) -> None:
    """Refuse what could not be kept at QoS 0.

    Raises:
        InvalidOption: an option of another tier.
        QoSViolation: a stream captures the subject.
    """
    check_options(contract, options, CORE_OPTIONS, idempotent=idempotent)
    try:
        await vet(contract, backend)
    except PermissionDenied as exc:
        log.warning("%s: whether a stream captures it could not be found out: %s", contract.name, exc)


async def check_worker(
    contract: Contract, backend: StreamBackend, options: Mapping[str, Any], *, idempotent: bool
) -> str | None:
    """Refuse what could not be kept at QoS 1 and 2; the name of the stream, ``None`` where nothing may be asked.

    Raises:
        InvalidOption: an option of another tier.
        QoSViolation: every problem at once.
    """
    check_options(contract, options, STREAM_OPTIONS, idempotent=idempotent)
    problems = of_worker(contract, options, idempotent=idempotent)
    name: str | None = options.get("stream")
    check_ensure(options.get("ensure", "verify"))
    if options.get("ensure") != "bind":
        info = await (stream_of(contract, backend) if name is None else backend.stream_info(name))
        name = info.name
        how = ConsumeOptions(**{each: options[each] for each in Retrying.__optional_keys__ if each in options})
        problems += of_stream(contract, info.config)
        problems += of_attempts(info.config, max_deliver=how.max_deliver, backoff=how.backoff)
    if problems:
        raise contract.violation(*problems, stream=name)
    return name


def check_options(contract: Contract, options: Mapping[str, Any], allowed: frozenset[str], *, idempotent: bool) -> None:
    """Raises ``InvalidOption`` for one that means nothing at this grade."""
    check_kind("idempotent", idempotent, bool, "True or False", shown=True)
    if idempotent and allowed is CORE_OPTIONS:
        raise InvalidOption(f"idempotent= means nothing for {contract.name}: nothing is repeated", option="idempotent")
    for option in options:
        if option not in allowed:
            told = f"{option}= means nothing for {contract.name}; there are {', '.join(sorted(allowed))}"
            raise InvalidOption(told, option=option)


class EventInbox:
    """An inbox for events: what is none does not get into a transaction, and repeats are counted of the type."""

    def __init__(self, inbox: object, contract: Contract, decoding: Decoding, stats: ContractStats) -> None:
        check_inbox(inbox)
        self._inbox = cast("Inbox", inbox)
        self._contract = contract
        self._decoding = decoding
        self._stats = stats

    async def check(self, stream: StreamOptions | None) -> None:
        """See ``broker.applying.Inbox``.

        Raises:
            QoSViolation: it forgets too early, or a commit of its database is not for good.
        """
        try:
            await self._inbox.check(stream)
        except InvalidOption as exc:
            problem = Problem(str(exc), f"another {exc.option}= of the Inbox")
            raise self._contract.violation(problem, stream=None if stream is None else stream.name) from exc

    def applying(self, handler: Callable[..., Any], *, consumer: str, options: ConsumeOptions) -> Applied:
        """See ``broker.applying.Inbox``."""
        ran = set[int]()

        async def noted(taken: Any, tx: Any) -> None:
            ran.update(each.sequence for each in (taken if isinstance(taken, list) else [taken]))
            await handler(taken, tx)

        applied = self._inbox.applying(noted, consumer=consumer, options=options)
        return ApplyingEvents(applied, self._decoding, self._stats, ran)


class ApplyingEvents:
    """Counts what an inbox makes of events; ``ran`` has the sequences its handler was called with."""

    def __init__(self, applied: Applied, decoding: Decoding, stats: ContractStats, ran: set[int]) -> None:
        self._applied = applied
        self._decoding = decoding
        self._stats = stats
        self._ran = ran

    @property
    def stopping(self) -> Callable[[], bool]:
        """See ``broker.applying.Applied``."""
        return self._applied.stopping

    @stopping.setter
    def stopping(self, told: Callable[[], bool]) -> None:
        self._applied.stopping = told

    @property
    def in_hand(self) -> int:
        """See ``broker.applying.Applied``."""
        return self._applied.in_hand

    async def __call__(self, taken: Any, /) -> None:
        """See ``broker.applying.Applied``."""
        if isinstance(taken, list):
            messages = await self._decoding.whole(taken)
            if not messages:
                return
            work = self._applied(messages)
        else:
            self._decoding.counted(taken)
            messages, work = [taken], self._applied(taken)
        failed: Mapping[StreamMessage, Exception] = {}
        try:
            await work
        except SomeFailed as exc:
            failed = exc.errors
            raise
        except BaseException:
            failed = dict.fromkeys(messages, Exception())
            raise
        finally:
            self._count(messages, failed)

    def _count(self, messages: list[StreamMessage], failed: Mapping[StreamMessage, Exception]) -> None:
        for message in messages:
            if message.sequence in self._ran:
                self._ran.discard(message.sequence)
            elif message not in failed and not message.settled:
                self._stats.repeats += 1


def with_malformed(on_error: Mapping[type[Exception], Any] | None) -> dict[type[Exception], Any]:
    """The caller's decisions; what is no event is a dead letter at once unless they say otherwise."""
    return {MalformedEvent: "dead_letter", **(on_error or {})}
