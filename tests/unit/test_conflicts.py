"""A conflict after an attempt of unknown outcome: our own message, somebody else's, or nobody can say."""

import asyncio

import pytest

from broker import (
    ApiError,
    BrokerClosed,
    ConnectionLost,
    EnqueueManyError,
    EnqueueUnknown,
    Entry,
    Expect,
    NoResponders,
    PermissionDenied,
    Receipt,
    RequestTimeout,
    SequenceConflict,
    StreamBroker,
    StreamOptions,
)
from broker.backends.memory import MemoryBackend, MemoryHub

FIRST = Expect(last_sequence=1)
FOLLOWS = Expect(last_subject_sequence=1)
EXPECTATIONS = pytest.mark.parametrize("expect", [FIRST, FOLLOWS], ids=["stream", "subject"])
BREAKS = pytest.mark.parametrize("lost", [RequestTimeout, ConnectionLost])


class Unreliable(MemoryBackend):
    """Loses answers to what it stores, or the message itself; what it is asked about ids goes through a script."""

    def __init__(self):
        super().__init__(MemoryHub())
        self.steps = []
        self.answers = []
        self.forgets = False
        self.asked = 0

    def append(self, record, *, timeout):
        if not self.steps:
            return super().append(record, timeout=timeout)
        stored, error = self.steps.pop(0)
        if stored:
            super().append(record, timeout=timeout)
        lost = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, lost.set_exception, error)
        return lost

    async def look_up(self, record, *, timeout):
        self.asked += 1
        if self.answers:
            raise self.answers.pop(0)
        return None if self.forgets else await super().look_up(record, timeout=timeout)


async def scene(**options):
    """A stream with one message, and the backend that will lose what comes."""
    backend = Unreliable()
    sb = StreamBroker(backend)
    await sb.declare(StreamOptions("S", ["s.>"], **options))
    await sb.enqueue("s.a", "first")
    return sb, backend


async def others(sb, *subjects):
    """Somebody else's messages."""
    async with StreamBroker(MemoryBackend(sb._streams._hub)) as other:
        for subject in subjects:
            await other.enqueue(subject, "theirs")


@EXPECTATIONS
@BREAKS
async def test_our_own_message_is_found(expect, lost):
    sb, backend = await scene()
    async with sb:
        backend.steps = [(True, lost())]
        assert await sb.enqueue("s.a", "ours", expect=expect) == Receipt("S", 2, duplicate=True)
        backend.steps = [(True, lost())]
        assert await sb.enqueue_many([Entry("s.b", "ours", expect=Expect(last_sequence=2))]) == [Receipt("S", 3, True)]
        assert (sb.stats.enqueued, sb.stats.duplicates) == (3, 2)


@EXPECTATIONS
@BREAKS
async def test_somebody_else_s_message_is_a_conflict(expect, lost):
    sb, backend = await scene()
    async with sb:
        backend.steps = [(False, lost())]
        task = asyncio.ensure_future(sb.enqueue("s.a", "ours", expect=expect))
        await asyncio.sleep(0)
        await others(sb, "s.a")
        with pytest.raises(SequenceConflict):
            await task
        assert (await sb.streams.info("S")).messages == 2


@EXPECTATIONS
async def test_a_server_that_began_anew_is_not_believed_but_looked_at(expect):
    sb, backend = await scene()
    backend.forgets = True
    async with sb:
        backend.steps = [(True, ConnectionLost())]
        assert await sb.enqueue("s.a", "ours", expect=expect) == Receipt("S", 2, duplicate=True)
        assert backend.asked == 1


@EXPECTATIONS
async def test_what_is_gone_from_a_server_that_began_anew_is_unknown(expect):
    sb, backend = await scene(max_msgs_per_subject=1)
    backend.forgets = True
    async with sb:
        backend.steps = [(True, ConnectionLost())]
        task = asyncio.ensure_future(sb.enqueue("s.a", "ours", expect=expect))
        await asyncio.sleep(0)
        await others(sb, "s.a")
        with pytest.raises(EnqueueUnknown):
            await task


@pytest.mark.parametrize(
    ("subject", "expect", "options", "more"),
    [
        ("s.b", Expect(last_subject_sequence=0), {}, {}),
        ("s.b", Expect(last_subject_sequence=1, subject_filter="s.>"), {"max_msgs_per_subject": 1}, {}),
        ("s.a", FOLLOWS, {"retention": "workqueue"}, {}),
        ("s.a", FOLLOWS, {}, {"ttl": 60}),
        ("s.a", FOLLOWS, {"lanes": 2}, {"ordering_key": "ann"}),
        ("s.a", Expect(last_msg_id="other"), {}, {}),
    ],
    ids=["no message", "over a pattern", "work queue", "time to live", "lanes", "last id"],
)
async def test_where_ours_could_have_gone_before_what_was_expected_it_is_unknown(subject, expect, options, more):
    sb, backend = await scene(**options)
    backend.forgets = True
    async with sb:
        backend.steps = [(False, ConnectionLost())]
        task = asyncio.ensure_future(sb.enqueue(subject, "ours", expect=expect, **more))
        await asyncio.sleep(0)
        await others(sb, subject)
        with pytest.raises(EnqueueUnknown):
            await task


@EXPECTATIONS
async def test_after_the_duplicate_window_it_is_looked_for_in_its_place(expect):
    sb, backend = await scene(duplicate_window=0.1)
    for stored in (True, False):
        backend.steps = [(stored, RequestTimeout())] + [(False, RequestTimeout())] * 4
        task = asyncio.ensure_future(sb.enqueue("s.a", "ours", expect=expect))
        await asyncio.sleep(0)
        if stored:
            assert await task == Receipt("S", 2, duplicate=True)
            await sb.streams.delete_message("S", 2)
            expect = Expect(last_sequence=2) if expect is FIRST else expect
            continue
        await others(sb, "s.a")
        with pytest.raises(SequenceConflict):
            await task
    await sb.aclose()


@pytest.mark.parametrize(
    "trouble",
    [NoResponders(), RequestTimeout(), ConnectionLost(), ApiError("duplicate in process", transient=True)],
    ids=lambda error: type(error).__name__,
)
async def test_it_is_asked_again_until_somebody_answers(trouble):
    sb, backend = await scene()
    async with sb:
        backend.steps, backend.answers = [(True, RequestTimeout())], [trouble, trouble]
        assert await sb.enqueue("s.a", "ours", expect=FIRST) == Receipt("S", 2, duplicate=True)
        assert backend.asked == 3


@pytest.mark.parametrize(
    "refusal",
    [PermissionDenied(verb="publish", subject="s.a"), ApiError("no", err_code=1), BrokerClosed()],
    ids=lambda error: type(error).__name__,
)
async def test_what_may_not_be_asked_is_unknown(refusal):
    sb, backend = await scene()
    async with sb:
        backend.steps, backend.answers = [(True, RequestTimeout())], [refusal]
        with pytest.raises(EnqueueUnknown) as caught:
            await sb.enqueue("s.a", "ours", expect=FIRST, idempotency_key="k")
        assert caught.value.idempotency_key == "k"


async def test_nobody_answers_until_the_deadline():
    sb, backend = await scene()
    async with sb:
        backend.steps, backend.answers = [(True, RequestTimeout())], [NoResponders()] * 1000
        with pytest.raises(EnqueueUnknown):
            await sb.enqueue("s.a", "ours", expect=FIRST, timeout=0.5)


async def test_a_conflict_of_the_first_attempt_needs_no_question():
    sb, backend = await scene()
    async with sb:
        with pytest.raises(SequenceConflict):
            await sb.enqueue("s.a", "ours", expect=Expect(last_sequence=9))
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many([Entry("s.a", "ours", expect=Expect(last_sequence=9))])
        assert isinstance(caught.value.errors[0], SequenceConflict)
        assert backend.asked == 0


async def test_what_was_sent_again_behind_another_is_doubtful_too():
    """A burst that broke: the first one finds its way, and the others follow it at once."""
    sb, backend = await scene()
    async with sb:
        backend.steps = [(True, ConnectionLost()) for _ in range(3)]
        entries = [Entry("s.b", 1), *(Entry("s.b", number, expect=Expect(last_sequence=number)) for number in (2, 3))]
        assert await sb.enqueue_many(entries) == [Receipt("S", number, True) for number in (2, 3, 4)]
        assert (await sb.streams.info("S")).messages == 4
