"""The verbs that send, with one signature, for tests that every one of them must pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from broker import EnqueueManyError, Entry

if TYPE_CHECKING:
    from broker import StreamBroker

Send = Callable[..., Awaitable[object]]
"""One of the verbs below: broker, subject, body, and options such as ``headers``."""


async def publish_nowait(sb: StreamBroker, subject: str, body: Any, **options: Any) -> None:
    """``publish_nowait``."""
    sb.publish_nowait(subject, body, **options)


async def publish(sb: StreamBroker, subject: str, body: Any, **options: Any) -> None:
    """``publish``."""
    await sb.publish(subject, body, **options)


async def request(sb: StreamBroker, subject: str, body: Any, **options: Any) -> None:
    """``request``."""
    await sb.request(subject, body, timeout=0.3, **options)


async def enqueue(sb: StreamBroker, subject: str, body: Any, **options: Any) -> None:
    """``enqueue``."""
    await sb.enqueue(subject, body, timeout=2, **options)


async def enqueue_many(sb: StreamBroker, subject: str, body: Any, **options: Any) -> None:
    """``enqueue_many`` of one, with its error taken out of the group."""
    try:
        await sb.enqueue_many([Entry(subject, body, **options)], timeout=2)
    except EnqueueManyError as group:
        raise group.errors[0] from group


def _each(*verbs: Send) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("send", verbs, ids=[verb.__name__ for verb in verbs])


every_verb_that_sends = _each(publish_nowait, publish, request, enqueue, enqueue_many)
every_verb_that_stores = _each(enqueue, enqueue_many)
