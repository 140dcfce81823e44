"""Options that cannot be meant: refused with a typed error that names the option, before anything is sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from broker import ConsumerOptions, Expect, InvalidOption, InvalidSubject, StreamOptions
from broker.testing.conformance.bad_input import Usable
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, fresh, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect

NOT_BOOL: list[Any] = [None, 0, 1, -1, 1.5, float("nan"), "", "yes", b"x", [], [1], {}]

NO_TIME: list[Any] = [float("nan"), float("inf"), -1, -0.1, 10**40, True, None, "5", b"x", [1]]


class BadOptionsConformance(Conformance):
    """Options that cannot be meant."""

    @pytest.mark.parametrize(
        ("option", "values"),
        [
            ("auto_extend", NOT_BOOL),
            ("dead_letter", NOT_BOOL),
            ("ordered", NOT_BOOL),
            ("headers_only", NOT_BOOL),
            ("backoff", ["1", b"x", bytearray(b"x"), {1.0}, 5]),
            ("ensure", [[], {}, None, True, "create"]),
        ],
        ids=lambda each: each if isinstance(each, str) else "",
    )
    async def test_what_says_how_to_consume_is_checked(self, connect: Connect, option: str, values: list[Any]) -> None:
        sb = await connect()
        async with Usable(sb) as stream:
            for value in values:
                asked: dict[str, Any] = {"durable": WORKER, option: value}
                with pytest.raises(InvalidOption) as caught:
                    await sb.consume(f"{stream}.a", print, **asked)
                assert caught.value.option == option
            assert await listed(sb.consumers.names(stream)) == []

    async def test_what_says_how_to_push_is_checked(self, connect: Connect) -> None:
        sb = await connect()
        async with Usable(sb) as stream:
            for option in ("flow_control", "ordered"):
                for value in NOT_BOOL:
                    asked: dict[str, Any] = {option: value}
                    with pytest.raises(InvalidOption) as caught:
                        await sb.push_subscribe(f"{stream}.a", print, **asked)
                    assert caught.value.option == option
            assert await listed(sb.consumers.names(stream)) == []

    async def test_a_group_whose_lanes_have_no_room_for_their_names_is_refused(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("s")
        await sb.declare(StreamOptions(name, [f"{name}.*"], lanes=2))
        with pytest.raises(InvalidOption, match="240") as caught:
            await sb.consume(f"{name}.a", print, queue="q" * 241, ordered=True)
        assert caught.value.option == "queue"
        assert await listed(sb.consumers.names(name)) == []
        await sb.consume(f"{name}.a", print, queue="q" * 240, ordered=True)

    async def test_times_beyond_what_a_calendar_has_are_refused(self, connect: Connect) -> None:
        sb, early = await connect(), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
        late = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
        async with Usable(sb) as stream:
            for moment in (early, late, datetime.min):  # noqa: DTZ901 - the last one has no zone on purpose
                for option in ("start", "until"):
                    asked: dict[str, Any] = {option: moment}
                    with pytest.raises(InvalidOption) as caught:
                        sb.read(f"{stream}.a", **asked)
                    assert caught.value.option == option
            for moment in (early, late, datetime.min, datetime.min.replace(tzinfo=UTC)):  # noqa: DTZ901 - likewise
                with pytest.raises(InvalidOption, match=r"1970|zone"):
                    await sb.schedule(f"{stream}.a", 1, key="k", at=moment)

    @pytest.mark.parametrize(
        "expect",
        [{"subject_filter": "a.*"}, {"last_msg_id": ""}, {"last_msg_id": "ä"}, {"last_sequence": True}],
        ids=str,
    )
    async def test_expectations_that_mean_nothing_are_refused(self, expect: dict[str, Any]) -> None:
        with pytest.raises(InvalidOption) as caught:
            Expect(**expect)
        assert caught.value.option == next(iter(expect))

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("filters", 5),
            ("filters", "a.b"),
            ("claim", True),
            ("claim", {}),
            ("claim", "group"),
            ("ensure", []),
            ("priority_timeout", {}),
            ("deliver_group", ""),
            ("idle_heartbeat", ""),
            ("rate_limit", {}),
        ],
        ids=str,
    )
    async def test_bad_consumer_options_are_refused_when_they_are_made(self, option: str, value: Any) -> None:
        options: dict[str, Any] = {"stream": "S", option: value}
        with pytest.raises(InvalidOption) as caught:
            ConsumerOptions(**options)
        assert caught.value.option == option

    @pytest.mark.parametrize("ordered", [False, True])
    async def test_a_time_that_a_drain_cannot_have_is_refused_and_nothing_is_drained(
        self, connect: Connect, *, ordered: bool
    ) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, lanes=2 if ordered else None)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER, ordered=ordered)
        for timeout in NO_TIME:
            with pytest.raises(InvalidOption) as caught:
                await worker.drain(timeout)
            assert caught.value.option == "timeout"
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: len(seen) == 1, within=10)
        assert ("running" in repr(worker), WORKER in repr(worker), name in repr(worker)) == (True, True, True)

    @pytest.mark.parametrize(
        ("option", "asked"),
        [
            ("batch_timeout", {"batch_timeout": 5}),
            ("pause_for", {"pause_for": 5}),
            ("pause_for", {"pause_for": 5, "on_error": {ValueError: "drop"}}),
        ],
        ids=str,
    )
    async def test_what_would_have_no_effect_is_refused(
        self, connect: Connect, option: str, asked: dict[str, Any]
    ) -> None:
        sb = await connect()
        for verb in (sb.consume, sb.push_subscribe):
            with pytest.raises(InvalidOption) as caught:
                await verb("nobody.captures.this", print, durable=WORKER, **asked)
            assert caught.value.option == option
        with pytest.raises(InvalidOption) as caught:
            await sb.push_subscribe("nobody.captures.this", print, max_bytes=1000)
        assert caught.value.option == "max_bytes"

    async def test_bad_filters_of_dead_letters_are_refused(self, connect: Connect) -> None:
        sb = await connect()
        bad: list[Any] = [5, True, b"x", "", "a.b", "\udcff", ["x"]]
        async with Usable(sb):
            for option in ("stream", "consumer"):
                for value in bad:
                    with pytest.raises(InvalidSubject):
                        await listed(sb.dead_letters.list(**{option: value}))
                    with pytest.raises(InvalidSubject):
                        await sb.dead_letters.replay(**{option: value})
            with pytest.raises(InvalidOption):
                await sb.dead_letters.replay(1, rate=5)
            reason: Any = 5
            with pytest.raises(InvalidOption):
                await sb.dead_letters.discard(1, reason)

    async def test_keys_refuse_what_is_no_time_and_no_flag(self, connect: Connect) -> None:
        sb, bucket = await connect(), fresh("bucket")
        keys = await sb.key_value(bucket)
        for timeout in NO_TIME:
            with pytest.raises(InvalidOption) as caught:
                await keys.create("k", 1, timeout=timeout)
            assert caught.value.option == "timeout"
        for option in ("history", "updates_only", "deletes"):
            for value in NOT_BOOL:
                asked: dict[str, Any] = {option: value}
                with pytest.raises(InvalidOption) as caught:
                    keys.watch(**asked)
                assert caught.value.option == option
        with pytest.raises(InvalidOption):
            await sb.key_value(fresh("bucket"), description="\udcff")
        assert await listed(sb.buckets.names()) == [bucket]

    async def test_what_is_no_group_is_not_unpinned(self, connect: Connect) -> None:
        sb = await connect()
        bad: list[Any] = ["", "a b", "x" * 17, "\udcff", 5, None]
        for group in bad:
            with pytest.raises(InvalidOption) as caught:
                await sb.consumers.unpin("S", WORKER, group)
            assert caught.value.option == "group"

    async def test_what_is_no_dead_letter_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        bad: list[Any] = ["x", b"x", 1.5, True, 0, -1, [1], object()]
        async with Usable(sb):
            for letter in bad:
                with pytest.raises(InvalidOption):
                    await sb.dead_letters.replay(letter)
                with pytest.raises(InvalidOption):
                    await sb.dead_letters.discard(letter)

    async def test_a_reason_that_is_no_text_settles_nothing(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            [msg] = await puller.fetch(1, timeout=5)
            reasons: list[Any] = [1, None, b"x", True, "\udcff"]
            for reason in reasons:
                with pytest.raises(InvalidOption) as caught:
                    await msg.term(reason)
                assert caught.value.option == "reason"
            assert not msg.settled
            await msg.term("cheater")
