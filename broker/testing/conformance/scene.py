"""What every conformance test starts from: the fixtures a backend provides, fresh names, a stream, a gated handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import pytest

from broker import StreamOptions
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from broker import ConsumerInfo, DeadLetter, Message, StreamBroker, StreamMessage
    from broker.contracts.backend import Capabilities


class Connect(Protocol):
    """The fixture ``connect``: one more connection to this test's server, closed by the fixture.

    The server is fresh and empty, and shared by all connections of one test. ``options`` are those of
    ``Broker.connect`` but the URL.
    """

    async def __call__(self, **options: Any) -> StreamBroker: ...


WORKER = "settle-worker"
"""The durable name used where one is as good as any: every stream is new."""

Restart = Callable[[], Awaitable[None]]
"""The optional fixture ``restart``: ends this test's server and starts it again on its store."""


class Conformance:
    """Base of the suite's classes. A backend inherits from each and provides ``connect`` (and may provide others)."""

    pytestmark = pytest.mark.asyncio


def optional(request: pytest.FixtureRequest, name: str) -> Any:
    """The value of a fixture that a backend may leave out, or ``None``."""
    try:
        return request.getfixturevalue(name)
    except pytest.FixtureLookupError:
        return None


def claims(sb: StreamBroker) -> Capabilities:
    """What the backend says it can do."""
    return sb.capabilities


def fresh(word: str) -> str:
    """A name nobody used before, one token long."""
    return f"{word}-{uuid4().hex[:10]}"


async def a_stream(sb: StreamBroker, **options: Any) -> str:
    """The name of a new stream that captures ``<name>.>``."""
    name = fresh("stream")
    await sb.declare(StreamOptions(name, subjects=[f"{name}.>"], **options))
    return name


async def listed(source: AsyncIterable[Any]) -> list[Any]:
    """Everything an async iterable gives until it ends."""
    return [each async for each in source]


async def letters(sb: StreamBroker, **wanted: Any) -> list[DeadLetter]:
    """The dead letters, oldest first."""
    return [letter async for letter in sb.dead_letters.list(**wanted)]


async def idle(sb: StreamBroker, stream: str, consumer: str) -> ConsumerInfo | None:
    """What the server says about the consumer, once nothing waits and nothing is unsettled; else ``None``."""
    info = await sb.consumers.info(stream, consumer)
    return info if info.pending == 0 and info.ack_pending == 0 else None


async def arrived(box: list[Any], number: int) -> None:
    """Wait until the list holds at least so many."""
    await eventually(lambda: len(box) >= number)


def always(value: object) -> Callable[[object], object]:
    """A responder that gives the same answer to everybody."""
    return lambda _: value


def bodies(messages: list[Any]) -> list[Any]:
    """What the messages carry, decoded."""
    return [message.json() for message in messages]


class Gate:
    """A handler that notes each message and holds it until the gate is opened; counts how many it holds."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.finished: list[Any] = []
        self.running = 0
        self.most = 0
        self._opened = asyncio.Event()

    def open(self) -> None:
        """Let everything through from now on."""
        self._opened.set()

    async def handle(self, message: Message | StreamMessage) -> None:
        """The handler."""
        self.started.append(message)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._opened.wait()
        finally:
            self.running -= 1
        self.finished.append(message)


def slowly_into(box: list[Any]) -> Any:
    """A handler that takes a moment for each message, then notes it."""

    async def handle(msg: StreamMessage) -> None:
        await asyncio.sleep(0.005)
        box.append(msg)

    return handle
