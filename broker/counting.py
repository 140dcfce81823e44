"""Counters: adding to one so that it counts once, and reading it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Counted, Entry, counting
from broker.contracts.errors import BrokerError, FeatureDisabled, NoStream
from broker.contracts.options import in_range
from broker.contracts.subjects import publish_subject, resource_name

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.enqueueing import Enqueuer

_MOST: Final = 2**62


class Counting:
    """Adds and reads."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer) -> None:
        self._backend = backend
        self._enqueuer = enqueuer

    async def increment(self, entry: Entry, by: int, *, timeout: float) -> int | None:
        """The value after it; ``None`` when it was a repeat of one that is not kept any more."""
        in_range("by", by, -_MOST, _MOST, whole=True)
        in_range("timeout", timeout, 0)
        deadline = asyncio.get_running_loop().time() + timeout
        receipt = await self._enqueuer.store(counting(self._enqueuer.record(entry), by), deadline=deadline)
        if isinstance(receipt, Counted):
            return receipt.value
        try:  # it counted; that its value cannot be read now changes nothing about that
            return await self._backend.counter(receipt.stream, entry.subject, sequence=receipt.sequence)
        except BrokerError:
            return None

    async def value(self, subject: str, *, stream: str | None) -> int:
        """The value now."""
        publish_subject(subject)
        home = await self._backend.find_stream(subject) if stream is None else resource_name(stream, "stream")
        if home is None:
            raise NoStream(f"no stream captures {subject!r}; declare one whose subjects match it", subject=subject)
        value = await self._backend.counter(home, subject)
        if value is None:
            told = f"stream {home!r} keeps no counter on {subject!r}; declare it with StreamOptions(counters=True)"
            raise FeatureDisabled(told, option="counters", subject=subject, stream=home)
        return value
