"""Capabilities: a claim of ``True`` must hold, and a claim of ``False`` must really not, so that nobody under-claims.

A claim that needs more than ``connect`` uses the optional fixtures ``restart`` (ends the server and starts it on its
store) and ``url`` (what another process on this machine connects to).
"""

from __future__ import annotations

import asyncio
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import Expect, NoResponders, NoStream, RequestTimeout, SequenceConflict
from broker.testing.conformance.scene import Conformance, Gate, a_stream, bodies, claims, fresh, listed, optional
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect

_OTHER_PROCESS = """
import asyncio, sys
from broker import StreamBroker

async def main(url, subject, stored):
    async with StreamBroker.connect(url) as sb:
        await sb.publish(subject, "from another process")
        await sb.enqueue(stored, "from another process", timeout=5)

asyncio.run(main(*sys.argv[1:]))
"""


class CapabilitiesConformance(Conformance):
    """Each field of ``Capabilities``, both ways."""

    async def test_survives_restart(self, connect: Connect, request: pytest.FixtureRequest) -> None:
        restart, sb = optional(request, "restart"), await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", "kept", idempotency_key="k")
        if not claims(sb).survives_restart:
            await sb.aclose()
            if restart is not None:
                await restart()
            assert await listed((await connect()).streams.names()) == []
            return
        assert restart is not None, "a backend that claims survives_restart provides the fixture restart"
        await restart()
        again = await sb.enqueue(f"{name}.a", "kept", idempotency_key="k")
        assert (again.duplicate, again.sequence) == (True, 1)
        stored = await sb.streams.get_message(name, 1)
        assert stored is not None
        assert stored.json() == "kept"

    async def test_survives_restart_under_running_work(self, connect: Connect, request: pytest.FixtureRequest) -> None:
        sb, seen = await connect(), list[Any]()
        if not claims(sb).survives_restart:
            return  # the test above proves that the claim is no understatement
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", seen.append, durable="worker")
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: seen)
        restarting = asyncio.ensure_future(optional(request, "restart")())
        receipts = [await sb.enqueue(f"{name}.a", number) for number in range(1, 20)]
        await restarting
        assert len({receipt.sequence for receipt in receipts}) == 19
        await eventually(lambda: set(bodies(seen)) == set(range(20)), within=10)
        await eventually(lambda: sb.stats.reconnects == 1)

    async def test_detects_no_responders(self, connect: Connect) -> None:
        sb, began = await connect(), monotonic()
        claimed = claims(sb).detects_no_responders
        with pytest.raises(NoResponders if claimed else RequestTimeout):
            await sb.request(fresh("nobody"), b"", timeout=5 if claimed else 0.3)
        if claimed:
            assert monotonic() - began < 4

    async def test_crosses_processes(self, connect: Connect, request: pytest.FixtureRequest) -> None:
        sb, heard, subject = await connect(), list[Any](), fresh("news")
        url = optional(request, "url")
        name = await a_stream(sb)
        await sb.subscribe(subject, heard.append)
        if not claims(sb).crosses_processes:
            if url is not None:
                assert NoStream.__name__ in await self._tell(url, subject, f"{name}.a")
            await never(lambda: heard, during=0.05)
            return
        assert url is not None, "a backend that claims crosses_processes provides the fixture url"
        assert await self._tell(url, subject, f"{name}.a") == ""
        await eventually(lambda: heard)
        last = await sb.streams.get_last(name, f"{name}.a")
        assert last is not None
        assert last.json() == heard[0].json() == "from another process"

    async def test_limits_pending_per_group(self, connect: Connect) -> None:
        sb = await connect()
        name, gates = await a_stream(sb), (Gate(), Gate())
        for number in range(12):
            await sb.enqueue(f"{name}.a", number)
        for gate in gates:
            worker = await connect()
            await worker.consume(f"{name}.a", gate.handle, queue="workers", max_ack_pending=3, ack_wait=30)

        def running() -> int:
            return gates[0].running + gates[1].running

        if claims(sb).limits_pending_per_group:
            await eventually(lambda: running() == 3)
            await never(lambda: running() > 3, during=0.1)
        else:
            await eventually(lambda: running() > 3)
        for gate in gates:
            gate.open()
        await eventually(lambda: sorted(bodies(gates[0].finished + gates[1].finished)) == list(range(12)))

    async def test_reports_duplicates(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = [await sb.enqueue(f"{name}.a", 1, idempotency_key="k") for _ in range(2)]
        claimed = claims(sb).reports_duplicates
        assert [receipt.duplicate for receipt in receipts] == [False, claimed]
        assert (await sb.streams.info(name)).messages == (1 if claimed else 2)

    async def test_expects_sequences(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        outcomes = await asyncio.gather(
            *(sb.enqueue(f"{name}.a", 2, expect=Expect(last_sequence=1)) for _ in range(5)), return_exceptions=True
        )
        conflicts = sum(isinstance(outcome, SequenceConflict) for outcome in outcomes)
        if claims(sb).expects_sequences:
            assert conflicts == 4
            assert (await sb.streams.info(name)).messages == 2
        else:
            assert conflicts == 0

    async def test_expires_messages(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", "short", ttl=1)
        await sb.enqueue(f"{name}.a", "long", ttl=60)
        await sb.enqueue(f"{name}.a", "for ever")

        async def gone() -> bool:
            return await sb.streams.get_message(name, 1) is None

        await never(gone, during=0.3 if claims(sb).expires_messages else 1.5)
        if claims(sb).expires_messages:
            await eventually(gone)
        assert await sb.streams.get_message(name, 2) is not None
        assert await sb.streams.get_message(name, 3) is not None

    @staticmethod
    async def _tell(url: str, subject: str, stored: str) -> str:
        """Another process publishes and enqueues; what it complained about."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _OTHER_PROCESS, url, subject, stored, stderr=asyncio.subprocess.PIPE
        )
        _, complaint = await process.communicate()
        return complaint.decode()
