"""``reschedule_after`` where something is missing, goes away or contradicts: nothing is lost, and it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker import ConsumerOptions, FeatureDisabled, InvalidOption, StreamOptions
from broker.testing.conformance.rescheduling import LATER, Failing, consuming, emptied
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, arrived, fresh, idle, optional
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect, Restart


class RescheduleTroubleConformance(Conformance):
    """Promises of ``consume(reschedule_after=)`` when things go wrong."""

    async def test_the_stream_is_made_again_when_somebody_deletes_it(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        worker = await consuming(sb, name, failing.task)
        await sb.streams.delete(LATER)

        async def made_again() -> bool:
            return LATER in [each async for each in sb.streams.names()]

        await eventually(made_again, within=15)
        await sb.enqueue(f"{name}.bad", "it")
        await eventually(lambda: len(failing.seen) >= 2, within=15)
        await worker.drain()

    async def test_a_stream_without_schedules_is_told_at_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.declare(StreamOptions(LATER, ["gamebroker.later.>"], retention="workqueue"))
        with pytest.raises(FeatureDisabled) as caught:
            await consuming(sb, name, print)
        assert (caught.value.option, caught.value.stream) == ("schedules", LATER)

    async def test_where_no_schedule_takes_it_it_keeps_its_place(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        await sb.declare(
            StreamOptions(
                LATER,
                ["gamebroker.later.>"],
                retention="workqueue",
                discard="old",
                schedules=True,
                max_msg_size=10,
                max_msgs=10,
            )
        )
        await consuming(sb, name, failing.task)
        await sb.enqueue(f"{name}.bad", "it")
        await arrived(failing.seen, 2)
        assert [msg.attempt for msg in failing.seen] == [1, 2]
        assert (sb.stats.naked, sb.stats.rescheduled) == (1, 0)
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_it_survives_the_server(self, connect: Connect, request: pytest.FixtureRequest) -> None:
        sb, failing = await connect(), Failing()
        restart: Restart | None = optional(request, "restart")
        if not sb.capabilities.survives_restart or restart is None:
            return
        name = await a_stream(sb)
        await consuming(sb, name, failing.task, backoff=(1.0,))
        receipt = await sb.enqueue(f"{name}.bad", "it")
        await eventually(lambda: sb.stats.rescheduled == 1)
        await restart()
        await eventually(lambda: len(failing.seen) >= 2, within=15)
        assert (failing.seen[1].attempt, failing.seen[1].sequence) == (2, receipt.sequence)

    @pytest.mark.parametrize(
        ("given", "option"),
        [
            ({"reschedule_after": 0}, "reschedule_after"),
            ({"reschedule_after": float("nan")}, "reschedule_after"),
            ({"reschedule_after": "10"}, "reschedule_after"),
            ({"durable": None}, "reschedule_after"),
            ({"headers_only": True}, "reschedule_after"),
            ({"priority_group": "a", "min_pending": 1}, "reschedule_after"),
            ({"ordered": True}, "reschedule_after"),
        ],
    )
    async def test_bad_input_is_told_before_anything_is_sent(
        self, connect: Connect, given: dict[str, Any], option: str
    ) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption) as caught:
            await consuming(sb, fresh("nowhere"), print, **given)
        assert caught.value.option == option

    async def test_push_in_order_settles_nothing(self, connect: Connect) -> None:
        sb = await connect()
        for given in ({"ordered": True}, {}):
            options: dict[str, Any] = {"reschedule_after": 1.0, **given}
            with pytest.raises(InvalidOption) as caught:
                await sb.push_subscribe(fresh("nowhere"), print, **options)
            assert caught.value.option == "reschedule_after"

    async def test_bound_workers_need_both_consumers(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        await (await consuming(sb, name, print)).drain()
        await consuming(sb, name, failing.task, ensure="bind", stream=name)
        await sb.enqueue(f"{name}.bad", "it")
        await arrived(failing.seen, 2)
        info = await sb.consumers.info(LATER, f"{name}--{WORKER}")
        assert isinstance(info.config, ConsumerOptions)
        assert tuple(info.config.filters) == (f"gamebroker.later.due.{name}.{WORKER}.>",)

    async def test_a_group_that_goes_back_reschedules_anew(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        worker = await consuming(sb, name, failing.task)
        await sb.enqueue(f"{name}.bad", "it")
        await arrived(failing.seen, 2)
        await eventually(lambda: emptied(sb))
        await worker.drain()
        await sb.consumers.reset(name, WORKER, sequence=1)
        again = Failing()
        await consuming(sb, name, again.task)
        await arrived(again.seen, 2)
        assert [msg.attempt for msg in again.seen] == [1, 2]
