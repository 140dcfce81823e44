"""Which messages a consumer takes, and what it is labelled with: several subjects, metadata, headers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker import ConfigDrift, Entry, InvalidOption, InvalidSubject
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, bodies, idle
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker import StreamBroker
    from broker.testing.conformance.scene import Connect


async def nine(sb: StreamBroker, name: str) -> None:
    """Three messages on each of three subjects, in turn."""
    await sb.enqueue_many(Entry(f"{name}.{number % 3}.x", number) for number in range(9))


class FilterConformance(Conformance):
    """Promises about what is asked for."""

    async def test_several_subjects_are_one_consumer(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await nine(sb, name)
        await sb.consume([f"{name}.0.*", f"{name}.2.x"], seen.append, durable=WORKER)
        await eventually(lambda: bodies(seen) == [0, 2, 3, 5, 6, 8])
        info = await eventually(lambda: idle(sb, name, WORKER))
        assert set(info.config.filters) == {f"{name}.0.*", f"{name}.2.x"}

    async def test_the_order_of_subjects_is_no_drift(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for subjects in ([f"{name}.a", f"{name}.b"], (f"{name}.b", f"{name}.a")):
            await sb.consume(subjects, print, durable=WORKER)
        with pytest.raises(ConfigDrift) as caught:
            await sb.consume(f"{name}.a", print, durable=WORKER)
        assert set(caught.value.differences) == {"filters"}

    async def test_pulling_several_subjects(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await nine(sb, name)
        async with sb.pull([f"{name}.1.x", f"{name}.2.x"], durable=WORKER) as puller:
            assert bodies(await puller.fetch(6, timeout=5)) == [1, 2, 4, 5, 7, 8]

    async def test_reading_several_subjects_from_the_last(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await nine(sb, name)
        async with sb.read([f"{name}.0.x", f"{name}.1.x"], until="end") as stored:
            assert bodies([each async for each in stored]) == [0, 1, 3, 4, 6, 7]
        async with sb.read([f"{name}.0.x", f"{name}.1.x"], start="last", until="end") as stored:
            assert bodies([each async for each in stored]) == [7]

    @pytest.mark.parametrize(
        ("subject", "error"),
        [([], InvalidOption), (["a.>", "a.b"], InvalidOption), (b"a", InvalidSubject), (["a", "b c"], InvalidSubject)],
        ids=["none", "overlap", "bytes", "blank"],
    )
    async def test_subjects_that_make_no_sense_are_refused(
        self, connect: Connect, subject: Any, error: type[Exception]
    ) -> None:
        sb = await connect()
        with pytest.raises(error):
            await sb.consume(subject, print, durable=WORKER)
        with pytest.raises(error):
            sb.pull(subject, durable=WORKER)
        with pytest.raises(error):
            sb.read(subject)

    async def test_metadata_is_kept_with_the_consumer(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER, metadata={"owner": "settlement"})
        assert (await sb.consumers.info(name, WORKER)).config.metadata == {"owner": "settlement"}
        with pytest.raises(ConfigDrift) as caught:
            await sb.consume(f"{name}.a", print, durable=WORKER, metadata={"owner": "audit"})
        assert set(caught.value.differences) == {"metadata"}
        await sb.consume(f"{name}.a", print, durable=WORKER, metadata={"owner": "audit"}, ensure="update")
        assert (await sb.consumers.info(name, WORKER)).config.metadata == {"owner": "audit"}

    @pytest.mark.parametrize("metadata", [{"_nats.level": "1"}, {"gamebroker.queue": "x"}, {"a": 1}, "a=b"], ids=str)
    async def test_metadata_that_is_not_yours_is_refused(self, connect: Connect, metadata: Mapping[str, str]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption):
            await sb.consume("a", print, durable=WORKER, metadata=metadata)

    async def test_headers_only_leaves_the_bodies_behind(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", b"a long body", headers={"Room": "42"}, idempotency_key="battle-1")
        await sb.consume(f"{name}.a", seen.append, durable=WORKER, headers_only=True)
        await eventually(lambda: len(seen) == 1)
        assert (seen[0].data, dict(seen[0].headers), seen[0].idempotency_key) == (b"", {"Room": "42"}, "battle-1")
