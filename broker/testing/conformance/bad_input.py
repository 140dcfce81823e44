"""What is refused: with its own error, at once, and at no cost to anybody else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    DecodeError,
    EncodeError,
    InvalidHeader,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    NoResponders,
    PayloadTooLarge,
    Status,
    StreamBroker,
    StreamOptions,
)
from broker.testing.conformance.scene import Conformance, a_stream, fresh, idle
from broker.testing.conformance.sending import every_verb_that_sends, every_verb_that_stores
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.testing.conformance.scene import Connect
    from broker.testing.conformance.sending import Send

BAD_SUBJECTS = [
    "",
    " ",
    "a b",
    "a\tb",
    "a\r\nPUB b 0",
    "a\x00b",
    "a\x7fb",
    ".",
    ".a",
    "a.",
    "a..b",
    "a" * 513,
    "ä" * 257,
    "a\u00a0b",
]
WILDCARDS = ["*", ">", "a.*", "a.>", "a.*.b"]
BAD_PATTERNS = [*BAD_SUBJECTS, ">.a", "a.>.b"]
BAD_KEYS: list[Any] = [
    *("", " ", " a", "a ", "\ta", "a\nb", "a\r\nb", "a\x00", "a\x7f", "x" * 256, "ä" * 128),
    *(42, b"k"),
]
BAD_HEADERS: list[Any] = [
    {"X": "a\r\nNats-Msg-Id: evil"},
    {"X": "a\nb"},
    {"X": "a\x00b"},
    {"X\r\nY": "a"},
    {"X:Y": "a"},
    {"X Y": "a"},
    {"": "a"},
    {"Ä": "a"},
    {"X": 1},
    {"X": ["a", 1]},
    {"X": b"a"},
    {"Nats-Msg-Id": "1"},
    {"nats-rollup": "all"},
    {"Gamebroker-Key": "x"},
]


class BadInputConformance(Conformance):
    """What is refused: with its own error, at once, and at no cost to anybody else."""

    @every_verb_that_sends
    async def test_what_is_no_subject_cannot_be_sent_to(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        async with Usable(sb):
            for subject in [*BAD_SUBJECTS, *WILDCARDS]:
                with pytest.raises(InvalidSubject):
                    await send(sb, subject, b"x")
            assert sb.stats.requests == sb.stats.enqueued == 0

    async def test_a_subject_may_have_512_bytes(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        subject = fresh("battle").ljust(512, "x")
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, 1)
        await eventually(lambda: seen)

    async def test_what_is_no_pattern_cannot_be_listened_to(self, connect: Connect) -> None:
        sb = await connect()
        async with Usable(sb):
            for pattern in BAD_PATTERNS:
                with pytest.raises(InvalidSubject):
                    await sb.subscribe(pattern, print)
                with pytest.raises(InvalidSubject):
                    await sb.respond(pattern, print)
                with pytest.raises(InvalidSubject):
                    await sb.consume(pattern, print, durable="w")

    async def test_what_is_no_name_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with Usable(sb):
            for bad in ("", "a b", "a.b", "a*", "a>", "a/b", "a\\b", "a\r\nb", "x" * 256):
                with pytest.raises(InvalidSubject):
                    await sb.subscribe("a", print, queue=bad)
                with pytest.raises(InvalidSubject):
                    await sb.consume(f"{name}.a", print, durable=bad)
                with pytest.raises(InvalidSubject):
                    await sb.streams.info(bad)

    @every_verb_that_sends
    async def test_bad_headers_are_refused(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        async with Usable(sb) as stream:
            for headers in BAD_HEADERS:
                with pytest.raises(InvalidHeader):
                    await send(sb, f"{stream}.a", b"x", headers=headers)

    @every_verb_that_sends
    async def test_too_large_a_payload_is_refused(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        async with Usable(sb) as stream:
            with pytest.raises(PayloadTooLarge) as caught:
                await send(sb, f"{stream}.a", b"x" * (2 << 20))
        assert caught.value.size >= 2 << 20
        assert 0 < caught.value.limit < 2 << 20

    @every_verb_that_sends
    async def test_headers_count_as_payload(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        async with Usable(sb) as stream:
            with pytest.raises(PayloadTooLarge) as probe:
                sb.publish_nowait("a", b"x" * (2 << 20))
            with pytest.raises(PayloadTooLarge):
                await send(sb, f"{stream}.a", b"x" * probe.value.limit, headers={"X": "y"})

    async def test_exactly_the_limit_is_taken(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        with pytest.raises(PayloadTooLarge) as probe:
            sb.publish_nowait(subject, b"x" * (2 << 20))
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"x" * probe.value.limit)
        await eventually(lambda: seen)
        assert len(seen[0].data) == probe.value.limit

    @every_verb_that_sends
    async def test_a_body_that_cannot_be_encoded_is_refused(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        async with Usable(sb):
            for body in (object(), {1, 2, object()}, {"when": timedelta}, lambda: None):
                with pytest.raises(EncodeError):
                    await send(sb, "a.b", body)

    @every_verb_that_stores
    async def test_bad_keys_are_refused(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        async with Usable(sb) as stream:
            for key in BAD_KEYS:
                with pytest.raises(InvalidKey):
                    await send(sb, f"{stream}.a", 1, idempotency_key=key)
                with pytest.raises(InvalidKey):
                    await send(sb, f"{stream}.a", 1, ordering_key=key)

    async def test_garbage_cannot_be_decoded(self, connect: Connect) -> None:
        sb, subject, raised = await connect(), fresh("battle"), list[str]()

        def handle(msg: Any) -> None:
            for decode in (msg.json, lambda: msg.decode(dict), lambda: msg.decode(int)):
                try:
                    decode()
                except DecodeError as exc:
                    raised.append(type(exc).__name__)

        async with Usable(sb):
            await sb.subscribe(subject, handle)
            for garbage in (b"\xff\xfe garbage", b"", b'{"open":'):
                await sb.publish(subject, garbage)
            await eventually(lambda: len(raised) == 9)

    async def test_another_shape_cannot_be_decoded(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, {"tick": "seven"})
        await eventually(lambda: seen)
        with pytest.raises(DecodeError):
            seen[0].decode(dict[str, int])
        assert seen[0].json() == {"tick": "seven"}

    async def test_a_handler_that_gets_garbage_dead_letters_it(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", lambda msg: seen.append(msg.json()), durable="w", max_deliver=2, backoff=(0.02,))
        for body in (b"1", b"\xff garbage", b"2"):
            await sb.enqueue(f"{name}.a", body)
        await eventually(lambda: idle(sb, name, "w"))
        assert seen == [1, 2]
        [letter] = [each async for each in sb.dead_letters.list(stream=name)]
        assert (letter.data, letter.error_type) == (b"\xff garbage", "DecodeError")

    @pytest.mark.parametrize(
        "use",
        [
            lambda sb: sb.subscribe("a", print, pending_limit=0),
            lambda sb: sb.subscribe("a", print, overflow="sometimes"),
            lambda sb: sb.subscribe("a", "not a handler"),
            lambda sb: sb.respond("a", print, concurrency=0),
            lambda sb: sb.request("a", b"", timeout=-1),
            lambda sb: sb.request("a", b"", timeout="soon"),
            lambda sb: anext(sb.request_many("a", b"", max_replies=0)),
            lambda sb: sb.flush(timeout=-1),
            lambda sb: sb.enqueue("a", b"", timeout=-1),
            lambda sb: sb.drain(timeout=-1),
        ],
        ids=[
            "pending_limit",
            "overflow",
            "handler",
            "concurrency",
            "timeout",
            "timeout-text",
            "max_replies",
            "flush",
            "enqueue",
            "drain",
        ],
    )
    async def test_bad_options_are_refused(
        self, connect: Connect, use: Callable[[StreamBroker], Awaitable[object]]
    ) -> None:
        sb = await connect()
        async with Usable(sb):
            with pytest.raises(InvalidOption) as caught:
                await use(sb)
        assert isinstance(caught.value, ValueError)
        assert caught.value.option

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("subjects", "not-a-list"),
            ("subjects", []),
            ("subjects", ["a.>", "a.b"]),
            ("storage", "tape"),
            ("discard", "all"),
            ("replicas", 0),
            ("max_msgs", 0),
            ("max_age", -1),
            ("duplicate_window", 0),
        ],
        ids=str,
    )
    async def test_bad_stream_options_are_refused_when_they_are_made(
        self, connect: Connect, field: str, value: Any
    ) -> None:
        sb = await connect()
        options: dict[str, Any] = {"name": "s", "subjects": ["a"], field: value}
        async with Usable(sb):
            with pytest.raises(InvalidOption):
                await sb.declare(StreamOptions(**options))


class Usable:
    """Around something that is refused: the connection works afterwards and nothing of anybody else was lost.

    Gives the name of a stream, empty before and after.
    """

    def __init__(self, sb: StreamBroker) -> None:
        self._sb = sb
        self._subject = fresh("usable")
        self._seen: list[Any] = []

    async def __aenter__(self) -> str:
        self._stream = await a_stream(self._sb)
        await self._sb.subscribe(self._subject, lambda msg: self._seen.append(msg.data))
        await self._sb.publish(self._subject, b"before")
        return self._stream

    async def __aexit__(self, *error: object) -> None:
        if error[0] is not None:
            return
        sb = self._sb
        if sb.status is Status.CLOSED:
            raise AssertionError("it closed the connection")
        await sb.publish(self._subject, b"after")
        await eventually(lambda: self._seen == [b"before", b"after"])
        with pytest.raises(NoResponders):
            await sb.request(fresh("nobody"), b"", timeout=5)
        assert (await sb.streams.info(self._stream)).messages == 0
        assert (await sb.enqueue(f"{self._stream}.usable", b"")).sequence == 1
        assert sb.stats.reconnects == 0
