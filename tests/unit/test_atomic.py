"""What `enqueue_atomic` makes of each answer, and of none: never twice, never "failed" when unknown."""

import asyncio

import pytest

from broker import (
    ApiError,
    BatchRejected,
    BrokerClosed,
    ConnectionLost,
    EnqueueUnknown,
    Entry,
    NoResponders,
    PermissionDenied,
    RequestTimeout,
    SequenceConflict,
    StreamBroker,
    StreamFull,
    StreamOptions,
    Unsupported,
)
from broker.backends.memory import MemoryBackend, MemoryHub

S = StreamOptions("S", ["s.>"])
ENTRIES = [Entry("s.a", n, idempotency_key=f"k{n}") for n in range(3)]


class Silent(Exception):
    """The batch is stored, and the answer is lost: this is what the caller hears instead."""


class ScriptedBackend(MemoryBackend):
    """A memory backend whose batches go through a script: an error to answer with, or None to really store."""

    def __init__(self, *script):
        super().__init__(MemoryHub())
        self.script = list(script)
        self.batches = 0
        self.probes = None

    def append_atomic(self, records, *, timeout):
        self.batches += 1
        step = self.script.pop(0) if self.script else None
        if step is None:
            return super().append_atomic(records, timeout=timeout)
        if isinstance(step, Silent):
            super().append_atomic(records, timeout=timeout)
            step = step.args[0]
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(step)
        return answer

    async def look_up(self, record, *, timeout):
        if self.probes is not None:
            raise self.probes
        return await super().look_up(record, timeout=timeout)


async def opened(*script):
    backend = ScriptedBackend(*script)
    sb = StreamBroker(backend)
    await sb.declare(S)
    return sb, backend


async def messages(sb):
    return (await sb.streams.info("S")).messages


@pytest.mark.parametrize(
    "step",
    [
        RequestTimeout(),
        ConnectionLost(),
        NoResponders(),
        ApiError("leader is changing", transient=True),
        BatchRejected(reason="incomplete"),
    ],
)
async def test_what_may_pass_is_tried_again(step):
    sb, backend = await opened(step)
    receipts = await sb.enqueue_atomic(ENTRIES)
    assert [(each.sequence, each.duplicate) for each in receipts] == [(1, False), (2, False), (3, False)]
    assert (backend.batches, sb.stats.enqueue_retries) == (2, 1)


@pytest.mark.parametrize("lost", [RequestTimeout(), ConnectionLost()])
async def test_a_lost_answer_to_a_stored_batch_is_found_out(lost):
    sb, backend = await opened(Silent(lost))
    receipts = await sb.enqueue_atomic(ENTRIES)
    assert [(each.sequence, each.duplicate) for each in receipts] == [(1, True), (2, True), (3, True)]
    assert backend.batches == 2
    assert (await messages(sb), sb.stats.enqueued, sb.stats.duplicates) == (3, 3, 3)


@pytest.mark.parametrize("refusal", [SequenceConflict(), StreamFull(), ApiError("odd", err_code=1)])
async def test_a_refusal_after_a_lost_answer_asks_whether_the_batch_itself_is_in_the_way(refusal):
    sb, _ = await opened(Silent(RequestTimeout()), refusal)
    assert all(each.duplicate for each in await sb.enqueue_atomic(ENTRIES))
    assert await messages(sb) == 3


async def test_a_refusal_after_a_lost_answer_is_unknown_when_the_batch_is_not_there_yet():
    sb, _ = await opened(RequestTimeout(), SequenceConflict())
    with pytest.raises(EnqueueUnknown) as caught:
        await sb.enqueue_atomic(ENTRIES)
    assert caught.value.idempotency_keys == ("k0", "k1", "k2")


@pytest.mark.parametrize("refusal", [SequenceConflict(), StreamFull(), PermissionDenied(), BatchRejected(reason="x")])
async def test_a_refusal_of_the_first_attempt_is_told_as_it_is(refusal):
    sb, backend = await opened(refusal)
    with pytest.raises(type(refusal)):
        await sb.enqueue_atomic(ENTRIES)
    assert (backend.batches, await messages(sb)) == (1, 0)


async def test_silence_until_the_deadline_is_unknown_and_the_keys_it_carries_are_safe():
    sb, backend = await opened(*[Silent(RequestTimeout())] * 100)
    entries = [Entry("s.a", n) for n in range(3)]
    with pytest.raises(EnqueueUnknown) as caught:
        await sb.enqueue_atomic(entries, timeout=0.2)
    backend.script.clear()
    keys = caught.value.idempotency_keys
    assert len(set(keys)) == 3
    again = await sb.enqueue_atomic([Entry("s.a", n, idempotency_key=key) for n, key in enumerate(keys)])
    assert all(each.duplicate for each in again)
    assert await messages(sb) == 3


@pytest.mark.parametrize(
    "silence", [RequestTimeout(), ConnectionLost(), ApiError("busy", transient=True), StreamFull()]
)
async def test_when_nobody_can_say_whether_it_is_in_it_is_unknown(silence):
    sb, backend = await opened(Silent(RequestTimeout()))
    backend.probes = silence
    with pytest.raises(EnqueueUnknown):
        await sb.enqueue_atomic(ENTRIES, timeout=0.3)
    backend.probes = None
    assert await messages(sb) == 3


@pytest.mark.parametrize("at", ["batch", "probe"])
async def test_closed_after_an_attempt_is_unknown(at):
    sb, backend = await opened(RequestTimeout(), *([BrokerClosed()] if at == "batch" else [SequenceConflict()]))
    backend.probes = BrokerClosed()
    with pytest.raises(EnqueueUnknown):
        await sb.enqueue_atomic(ENTRIES)


async def test_closed_before_anything_was_sent_is_told():
    sb, _ = await opened(BrokerClosed())
    with pytest.raises(BrokerClosed):
        await sb.enqueue_atomic(ENTRIES)


async def test_a_probe_never_stores():
    sb, _ = await opened(BatchRejected(reason="duplicate"))
    heard = []
    await sb.subscribe("s.a", lambda msg: heard.append(msg.json()))
    assert not any(each.duplicate for each in await sb.enqueue_atomic(ENTRIES))
    assert await messages(sb) == 3
    assert set(heard) == {0, 1, 2}, "who listens sees the message itself, never an empty one"


async def test_a_conflict_of_several_that_expect_names_none():
    sb, _ = await opened(SequenceConflict())
    with pytest.raises(SequenceConflict) as caught:
        await sb.enqueue_atomic(ENTRIES)
    assert caught.value.index is None


async def test_a_backend_that_knows_no_repeats_is_refused():
    sb, backend = await opened()
    backend.capabilities = backend.capabilities._replace(reports_duplicates=False)
    with pytest.raises(Unsupported):
        await sb.enqueue_atomic(ENTRIES)
