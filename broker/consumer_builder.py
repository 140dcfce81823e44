"""One builder for every way to consume: what a verb was called with becomes the options of a consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.contracts.errors import InvalidOption
from broker.contracts.options import ConsumerOptions, check_ensure
from broker.contracts.subjects import overlap, subscribe_pattern

if TYPE_CHECKING:
    from broker.contracts.options import Ensure

Subjects = str | Sequence[str]
"""One subject or pattern, or several that do not overlap."""


def patterns(subject: Subjects) -> tuple[str, ...]:
    """The patterns asked for, checked.

    Raises:
        InvalidSubject: one is no pattern.
        InvalidOption: none, or two overlap: a message would belong to both.
    """
    if isinstance(subject, str):
        return (subscribe_pattern(subject),)
    if isinstance(subject, bytes | bytearray) or not isinstance(subject, Sequence) or not subject:
        raise InvalidOption(f"subject={subject!r}: must be a pattern or a list of patterns", option="subject")
    asked = tuple(subscribe_pattern(each) for each in subject)
    for index, left in enumerate(asked):
        for right in asked[index + 1 :]:
            if overlap(left, right):
                raise InvalidOption(f"subject: {left!r} and {right!r} overlap", option="subject")
    return asked


def worker(
    subject: Subjects,
    *,
    queue: str | None,
    durable: str | None,
    stream: str | None,
    ensure: Ensure,
    metadata: Mapping[str, str] | None,
    **settings: Any,
) -> ConsumerOptions:
    """A consumer that workers share: ``queue`` and ``durable`` default to each other.

    Raises:
        InvalidSubject, InvalidOption.
    """
    check_ensure(ensure)
    if ensure == "bind" and durable is None and queue is None:
        raise InvalidOption("ensure='bind' needs durable= or queue=: there is nothing to bind to", option="durable")
    return ConsumerOptions(
        durable=durable or queue,
        queue=queue or durable,
        filters=patterns(subject),
        stream=stream,
        ensure=ensure,
        metadata={} if metadata is None else metadata,
        **settings,
    )
