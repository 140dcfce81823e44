"""What a contract needs of a stream and of a worker. Rules only: nothing is asked here, and nothing waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from broker.contracts.event_errors import MalformedEvent, Problem
from broker.contracts.qos import QoS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.contracts.admin import StreamInfo
    from broker.contracts.event_contracts import Contract
    from broker.contracts.options import StreamOptions

HORIZON: Final = {QoS.AT_LEAST_ONCE: 15.0, QoS.EXACTLY_ONCE: 90.0}
"""Seconds in which one ``send`` may store the same key twice: its time-out; for the journal's relay the longest pause
between two attempts (60 s), an attempt (10 s), what it takes a second relay to step in (5 s), and room to spare."""

_JITTER: Final = 1.1
"""Pauses between attempts are lengthened by up to so much."""


def of_core(contract: Contract, stream: str | None) -> list[Problem]:
    """At QoS 0: ``stream`` is the one that captures the subject, if any does."""
    if stream is None:
        return []
    told = f"stream {stream!r} captures {contract.subject!r}: it would store what is meant to be forgotten"
    return [Problem(told, "take the subject out of that stream's subjects, or declare QoS.AT_LEAST_ONCE")]


def of_capture(contract: Contract, stream: str | None) -> list[Problem]:
    """At QoS 1 and 2: somebody has to store it."""
    if stream is not None:
        return []
    declare = f'await sb.declare(StreamOptions("NAME", ["{contract.subject}"]))'
    return [Problem(f"no stream captures {contract.subject!r}", declare)]


def of_stream(contract: Contract, stream: StreamOptions) -> list[Problem]:
    """At QoS 1 and 2: what the stream would do to its messages."""
    return [*_losses(contract, stream), *_memory_of_keys(contract, stream), *_order(contract, stream)]


def of_sending(contract: Contract, info: StreamInfo) -> list[Problem]:
    """The same for whoever sends, now."""
    found = of_stream(contract, info.config)
    if info.config.retention == "interest" and not info.state.consumers:
        told = f"stream {info.name!r} keeps what somebody has a consumer for, and nobody has one yet"
        found.append(Problem(told, 'start the worker first, or use retention="limits"'))
    return found


def of_attempts(stream: StreamOptions, *, max_deliver: int, backoff: Sequence[float]) -> list[Problem]:
    """A message must live as long as the attempts at it, or it is gone before its dead letter is written."""
    if stream.max_age is None:
        return []
    pauses = sum(backoff[min(n, len(backoff)) - 1] for n in range(1, max_deliver)) if backoff else 0.0
    longest = pauses * _JITTER
    if stream.max_age > longest:
        return []
    told = f"stream {stream.name!r} forgets after max_age={stream.max_age:g} s what is tried for {longest:g} s"
    return [Problem(told, f"keep messages for more than {longest:g} s, or shorten backoff=")]


def of_worker(contract: Contract, options: Mapping[str, Any], *, idempotent: bool) -> list[Problem]:
    """At QoS 1 and 2: how a worker is asked to work."""
    found = []
    if options.get("durable") is None and options.get("queue") is None:
        told = "a worker without a name forgets its position when it is gone, and what it had not done"
        found.append(Problem(told, 'name it: durable="settle-worker"'))
    if not options.get("dead_letter", True):
        found.append(Problem("with dead_letter=False what gives up vanishes", "leave dead_letter= out"))
    if dropped := _dropped(options.get("on_error")):
        found.append(Problem(f"what fails with {', '.join(dropped)} would vanish", 'say "dead_letter" in on_error='))
    if options.get("headers_only", False):
        found.append(Problem("with headers_only=True there is no event to decode", "leave headers_only= out"))
    if contract.qos is QoS.EXACTLY_ONCE and options.get("inbox") is None and not idempotent:
        told = "without an inbox a worker killed between its commit and its ack applies the event twice"
        fix = "on(..., inbox=Inbox(url)), or idempotent=True when applying it twice changes nothing"
        found.append(Problem(told, fix))
    return found


def _dropped(on_error: object) -> list[str]:
    """The errors of the handler after which an event is thrown away; what is no event may be."""
    if not isinstance(on_error, Mapping):
        return []
    kinds = [kind for kind, what in on_error.items() if what == "drop" and isinstance(kind, type)]
    return [kind.__name__ for kind in kinds if not issubclass(kind, MalformedEvent)]


def _losses(contract: Contract, stream: StreamOptions) -> list[Problem]:
    found = []
    limited = stream.max_msgs is not None or stream.max_bytes is not None
    if stream.discard == "old" and limited:
        told = f"stream {stream.name!r} drops the oldest when it is full, read or not"
        found.append(Problem(told, 'discard="new"'))
    if stream.max_msgs_per_subject is not None and not stream.discard_new_per_subject:
        told = f"stream {stream.name!r} drops the oldest beyond max_msgs_per_subject={stream.max_msgs_per_subject}"
        found.append(Problem(told, "discard_new_per_subject=True, or no such limit"))
    if stream.persist_mode == "async":
        told = f"stream {stream.name!r} says that a message is stored before it is (persist_mode='async')"
        found.append(Problem(told, 'persist_mode="default"; it never changes, so on a new stream'))
    if contract.qos is QoS.EXACTLY_ONCE and stream.storage == "memory":
        told = f"stream {stream.name!r} is in memory: a server that ends takes what was stored with it"
        found.append(Problem(told, 'storage="file"; it never changes, so on a new stream'))
    return found


def _memory_of_keys(contract: Contract, stream: StreamOptions) -> list[Problem]:
    if contract.key is None or stream.duplicate_window >= HORIZON[contract.qos]:
        return []
    horizon = HORIZON[contract.qos]
    told = (
        f"stream {stream.name!r} remembers keys for duplicate_window={stream.duplicate_window:g} s, "
        f"and sending may repeat one for {horizon:g} s"
    )
    return [Problem(told, f"duplicate_window={horizon:g} or more")]


def _order(contract: Contract, stream: StreamOptions) -> list[Problem]:
    if contract.ordering_key is None or stream.lanes is not None:
        return []
    told = f"stream {stream.name!r} has no lanes, so workers would keep no order by {contract.ordering_key!r}"
    return [Problem(told, "StreamOptions(lanes=64), or a contract without ordering_key=")]
