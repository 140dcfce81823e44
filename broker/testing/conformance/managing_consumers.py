"""Managing consumers: made, changed, paused, set back; what never changes is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ApiError,
    ConfigDrift,
    ConsumerNotFound,
    ConsumerOptions,
    Entry,
    InvalidOption,
    NoStream,
    StreamNotFound,
    Unsupported,
)
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, arrived, bodies, claims, listed
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect

MADE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "queue": {"queue": "settlement"},
    "metadata": {"metadata": {"owner": "settlement"}, "description": "pays rewards"},
    "replicas": {"replicas": 1},
    "memory": {"memory": True},
    "headers_only": {"headers_only": True},
    "sample": {"sample": 30},
    "inactive_threshold": {"inactive_threshold": 60.0},
    "acks": {"acks": False},
    "start": {"start": 5},
    "start_time": {"start": datetime(2026, 1, 1, tzinfo=UTC)},
    "waits": {"ack_wait": 7.5, "max_ack_pending": 77},
}
"""What is asked comes back, one setting at a time."""

CHANGES: dict[str, dict[str, Any]] = {
    "ack_wait": {"ack_wait": 7.5},
    "max_ack_pending": {"max_ack_pending": 5},
    "description": {"description": "more"},
    "metadata": {"metadata": {"owner": "audit"}},
    "headers_only": {"headers_only": True},
    "sample": {"sample": 50},
    "inactive_threshold": {"inactive_threshold": 90.0},
    "queue": {"queue": "other"},
}

FOR_GOOD: dict[str, dict[str, Any]] = {"acks": {"acks": False}, "memory": {"memory": True}}


class ManagedConsumerConformance(Conformance):
    """Every setting of a consumer, and every verb of ``consumers``."""

    @pytest.mark.parametrize("option", MADE)
    async def test_what_is_asked_comes_back(self, connect: Connect, option: str) -> None:
        sb = await connect()
        options = ConsumerOptions(durable=WORKER, stream=await a_stream(sb), **MADE[option])
        stream = options.stream or ""
        assert (await sb.consumers.create(options)).config == options
        assert (await sb.consumers.info(stream, WORKER)).config == options
        assert (await sb.consumers.create(options)).config == options
        assert await sb.consumers.ensure(options, "bind") is None

    async def test_several_filters_deliver_just_those(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.{number % 4}", number) for number in range(8))
        options = ConsumerOptions(durable=WORKER, stream=name, filters=[f"{name}.1", f"{name}.3"])
        info = await sb.consumers.create(options)
        assert (set(info.config.filters), info.pending) == ({f"{name}.1", f"{name}.3"}, 4)
        again = replace(options, filters=[f"{name}.3", f"{name}.1"])
        assert (await sb.consumers.create(again)).pending == 4
        wider = replace(options, filters=[f"{name}.1", f"{name}.2", f"{name}.3"])
        assert (await sb.consumers.update(wider)).pending == 6

    @pytest.mark.parametrize("option", CHANGES)
    async def test_what_may_be_changed_is_drift_until_it_is_updated(self, connect: Connect, option: str) -> None:
        sb = await connect()
        options = ConsumerOptions(durable=WORKER, stream=await a_stream(sb))
        await sb.consumers.create(options)
        changed = replace(options, **CHANGES[option])
        with pytest.raises(ConfigDrift) as caught:
            await sb.consumers.ensure(changed)
        assert caught.value.differences == {option: (getattr(changed, option), getattr(options, option))}
        info = await sb.consumers.ensure(changed, "update")
        assert info is not None
        assert info.config == changed
        assert (await sb.consumers.create(changed)).config == changed

    @pytest.mark.parametrize("option", FOR_GOOD)
    async def test_what_never_changes_is_named_and_nothing_is_changed(self, connect: Connect, option: str) -> None:
        sb = await connect()
        options = ConsumerOptions(durable=WORKER, stream=await a_stream(sb))
        await sb.consumers.create(options)
        with pytest.raises(ConfigDrift) as caught:
            await sb.consumers.ensure(replace(options, **FOR_GOOD[option], description="more"), "update")
        assert set(caught.value.differences) == {option}
        assert (await sb.consumers.info(options.stream or "", WORKER)).config == options

    async def test_whoever_consumes_has_no_opinion_on_what_it_cannot_say(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        words: dict[str, Any] = {"description": "pays rewards", "metadata": {"owner": "ann"}, "sample": 10}
        made = ConsumerOptions(durable=WORKER, queue=WORKER, stream=name, filters=[f"{name}.a"], **words)
        await sb.consumers.create(made)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 1)
        await arrived(seen, 1)
        assert (await sb.consumers.info(name, WORKER)).config == made

    async def test_an_update_needs_one_that_exists(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.update(ConsumerOptions(durable=WORKER, stream=name))
        with pytest.raises(InvalidOption, match="durable"):
            await sb.consumers.update(ConsumerOptions(stream=name))
        with pytest.raises(StreamNotFound):
            await sb.consumers.create(ConsumerOptions(durable=WORKER, stream="NOWHERE"))
        with pytest.raises(NoStream):
            await sb.consumers.create(ConsumerOptions(durable=WORKER, stream=name, filters=["not.captured"]))
        with pytest.raises(NoStream):
            await sb.consumers.create(ConsumerOptions(durable=WORKER, filters=["not.captured"]))

    async def test_an_unnamed_one_gets_a_name(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        info = await sb.consumers.create(ConsumerOptions(stream=name))
        assert await listed(sb.consumers.names(name)) == [info.name]
        assert info.config == ConsumerOptions(stream=name)

    async def test_priority_groups_come_back_or_are_refused_by_name(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        policies: Any = ("overflow", "prioritized", "pinned_client")
        for policy in policies:
            timeout = 3.0 if policy == "pinned_client" else None
            options = ConsumerOptions(
                durable=policy, stream=name, priority_policy=policy, priority_groups=["jobs"], priority_timeout=timeout
            )
            if not claims(sb).groups_by_priority:
                with pytest.raises(Unsupported, match="priority_policy"):
                    await sb.consumers.create(options)
                continue
            assert (await sb.consumers.create(options)).config == options
            with pytest.raises(ConfigDrift) as caught:
                await sb.consumers.create(replace(options, priority_groups=["others"]))
            assert set(caught.value.differences) == {"priority_groups"}

    async def test_unpin_needs_a_group(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consumers.create(ConsumerOptions(durable=WORKER, stream=name))
        with pytest.raises(ApiError) as caught:
            await sb.consumers.unpin(name, WORKER, "jobs")
        assert caught.value.err_code == 10160
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.unpin(name, "nobody", "jobs")
        with pytest.raises(InvalidOption, match="group"):
            await sb.consumers.unpin(name, WORKER, "")

    async def test_a_paused_consumer_hands_out_nothing_until_it_is_resumed(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        until = datetime.now(UTC) + timedelta(seconds=600)
        assert await sb.consumers.pause(name, WORKER, until) is True
        paused = (await sb.consumers.info(name, WORKER)).paused_until
        assert paused is not None
        assert abs(paused - until) < timedelta(milliseconds=1)
        await sb.enqueue(f"{name}.a", 1)
        await never(lambda: seen, during=0.2)
        await sb.consumers.resume(name, WORKER)
        await arrived(seen, 1)
        assert (await sb.consumers.info(name, WORKER)).paused_until is None
        await sb.consumers.resume(name, WORKER)

    async def test_a_pause_ends_by_itself(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        assert await sb.consumers.pause(name, WORKER, datetime.now(UTC) + timedelta(seconds=0.6)) is True
        await sb.enqueue(f"{name}.a", 1)
        await never(lambda: seen, during=0.1)
        await arrived(seen, 1)
        assert await sb.consumers.pause(name, WORKER, datetime(2020, 1, 1, tzinfo=UTC)) is False

    async def test_pause_wants_a_time_and_a_consumer(self, connect: Connect) -> None:
        sb = await connect()
        name, soon = await a_stream(sb), datetime.now(UTC) + timedelta(seconds=5)
        wrong: Any = (5.0, soon.replace(tzinfo=None), None)
        for until in wrong:
            with pytest.raises(InvalidOption, match="until"):
                await sb.consumers.pause(name, WORKER, until)
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.pause(name, WORKER, soon)
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.resume(name, WORKER)

    async def test_reset_hands_out_again_from_a_sequence(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", number) for number in range(1, 7))
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await arrived(seen, 6)

        async def settled() -> bool:
            return (await sb.consumers.info(name, WORKER)).ack_floor == 6

        await eventually(settled)
        assert await sb.consumers.reset(name, WORKER, 4) == 4
        await arrived(seen, 9)
        assert bodies(seen) == [1, 2, 3, 4, 5, 6, 4, 5, 6]
        await eventually(settled)

    async def test_reset_without_a_sequence_hands_out_what_is_not_settled(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", number) for number in range(1, 4))
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=60) as puller:
            held = [await puller.next(timeout=5) for _ in range(3)]
            assert held[0] is not None
            await held[0].ack(confirm=True)
            assert await sb.consumers.reset(name, WORKER) == 2
            again = [await puller.next(timeout=5) for _ in range(2)]
        assert [message.sequence for message in again if message is not None] == [2, 3]

    async def test_reset_keeps_to_where_it_may_go(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", number) for number in range(1, 7))
        await sb.consumers.create(ConsumerOptions(durable="from-3", stream=name, start=3))
        await sb.consumers.create(ConsumerOptions(durable="new", stream=name, start="new"))
        assert await sb.consumers.reset(name, "from-3", 5) == 5
        for consumer in ("from-3", "new"):
            with pytest.raises(ApiError) as caught:
                await sb.consumers.reset(name, consumer, 2)
            assert caught.value.err_code == 10204
        with pytest.raises(InvalidOption, match="sequence"):
            await sb.consumers.reset(name, "new", 0)
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.reset(name, "nobody")

    async def test_headers_only_leaves_bodies_out(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", b"12345", headers={"Kind": "x"})
        options = ConsumerOptions(durable=WORKER, stream=name, filters=[f"{name}.a"], headers_only=True)
        await sb.consumers.create(options)
        with pytest.raises(ConfigDrift, match="headers_only"):
            async with sb.pull(f"{name}.a", durable=WORKER):
                pass
        async with sb.pull(f"{name}.a", durable=WORKER, stream=name, ensure="bind") as puller:
            message = await puller.next(timeout=5)
        assert message is not None
        assert (message.data, message.headers["Kind"]) == (b"", "x")
