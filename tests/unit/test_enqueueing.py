"""What `enqueue` makes of each answer a backend can give, and of none."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import (
    ApiError,
    BrokerClosed,
    ConnectionLost,
    EnqueueManyError,
    EnqueueUnknown,
    Entry,
    Expect,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    NoResponders,
    NoStream,
    PermissionDenied,
    Receipt,
    RequestTimeout,
    SequenceConflict,
    StreamBroker,
    StreamFull,
    StreamOptions,
    silences,
)
from broker.attempts import ATTEMPT
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.enqueueing import check_key, wire_id


class ScriptedBackend(MemoryBackend):
    """A memory backend whose appends first go through a script: an error to answer with, or None to really store."""

    def __init__(self, *script):
        super().__init__(MemoryHub())
        self.script = list(script)
        self.ids = []
        self.find = None

    def append(self, record, *, timeout):
        self.ids.append(record.message_id)
        step = self.script.pop(0) if self.script else None
        if step is None:
            return super().append(record, timeout=timeout)
        answer = asyncio.get_running_loop().create_future()
        if isinstance(step, float):  # answers, so many seconds later
            asyncio.get_running_loop().call_later(step, settle, answer, super().append(record, timeout=timeout))
            return answer
        if step == "silence":
            asyncio.get_running_loop().call_later(timeout, settle, answer, RequestTimeout())
            return answer
        if step == "stored but silent":
            super().append(record, timeout=timeout)
            step = RequestTimeout()
        answer.set_exception(step)
        return answer

    async def find_stream(self, subject):
        if self.find == "silence":
            await asyncio.Event().wait()
        if self.find is not None:
            raise self.find
        return await super().find_stream(subject)


def settle(answer, told):
    if answer.done():
        return
    if isinstance(told, Exception):
        answer.set_exception(told)
    else:
        answer.set_result(told.result())


async def broker_on(*script):
    backend = ScriptedBackend(*script)
    sb = StreamBroker(backend)
    await sb.declare(StreamOptions("S", ["s.>"]))
    return sb, backend


@pytest.mark.parametrize(
    "trouble",
    [
        RequestTimeout(),
        ConnectionLost(),
        NoResponders(),
        ApiError("duplicate in process", err_code=10158, transient=True),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_same_id_is_sent_again_after(trouble):
    sb, backend = await broker_on(trouble, trouble)
    async with sb:
        receipt = await sb.enqueue("s.a", {}, idempotency_key="k")
    assert receipt.sequence == 1
    assert len(backend.ids) == 3
    assert len(set(backend.ids)) == 1
    assert sb.stats.enqueue_retries == 2


async def test_after_a_silence_the_next_attempt_waits_for_nobody_who_looks_for_the_stream():
    sb, backend = await broker_on(RequestTimeout())
    backend.find = "silence"
    async with sb:
        receipt = await asyncio.wait_for(sb.enqueue("s.a", {}, timeout=30), 10)
    assert receipt.sequence == 1
    assert len(backend.ids) == 2


async def test_where_it_was_silent_lately_another_attempt_goes_out_beside_the_one_that_waits(monkeypatch):
    monkeypatch.setattr("broker.silences.SOONER", 0.05)
    sb, backend = await broker_on("silence", "silence", None)
    silences.note(backend, asyncio.get_running_loop().time())
    began = asyncio.get_running_loop().time()
    async with sb:
        assert (await sb.enqueue("s.a", {}, timeout=30)).sequence == 1
    assert asyncio.get_running_loop().time() - began < ATTEMPT
    assert len(set(backend.ids)) == 1
    assert sb.stats.enqueue_retries == 2


async def test_a_slow_answer_to_an_attempt_that_was_overtaken_counts(monkeypatch):
    monkeypatch.setattr("broker.silences.SOONER", 0.05)
    sb, backend = await broker_on(0.3, *["silence"] * 1000)
    silences.note(backend, asyncio.get_running_loop().time())
    async with sb:
        assert (await sb.enqueue("s.a", {}, timeout=30)) == Receipt("S", 1, duplicate=False)
    assert 2 < len(backend.ids) < 20


async def test_many_follow_at_once_when_the_one_that_goes_ahead_has_arrived(monkeypatch):
    monkeypatch.setattr("broker.silences.SOONER", 0.05)
    sb, backend = await broker_on(*["silence"] * 50)
    silences.note(backend, asyncio.get_running_loop().time())
    began = asyncio.get_running_loop().time()
    async with sb:
        receipts = await sb.enqueue_many([Entry("s.a", number) for number in range(50)], timeout=30)
    assert [receipt.sequence for receipt in receipts] == list(range(1, 51))
    assert asyncio.get_running_loop().time() - began < ATTEMPT


async def test_a_message_stored_although_its_answer_was_lost_is_stored_once():
    sb, _ = await broker_on("stored but silent")
    async with sb:
        receipt = await sb.enqueue("s.a", {})
        assert receipt == Receipt("S", 1, duplicate=True)
        assert (await sb.streams.info("S")).messages == 1


async def test_no_word_until_the_deadline_is_unknown_and_names_a_key_that_is_safe():
    sb, backend = await broker_on(*[RequestTimeout()] * 100_000)
    async with sb:
        with pytest.raises(EnqueueUnknown) as caught:
            await sb.enqueue("s.a", {}, timeout=0.1)
        backend.script.clear()
        key = caught.value.idempotency_key
        await sb.enqueue("s.a", {}, idempotency_key=key)
    assert len(set(backend.ids)) == 1


@pytest.mark.parametrize("refusal", [StreamFull(), ApiError("no", err_code=1)], ids=lambda error: type(error).__name__)
async def test_a_refusal_is_not_tried_again(refusal):
    sb, backend = await broker_on(refusal)
    async with sb:
        with pytest.raises(type(refusal)):
            await sb.enqueue("s.a", {})
    assert len(backend.ids) == 1


async def test_no_responders_is_no_stream_when_the_server_says_so():
    sb, _ = await broker_on()
    async with sb:
        with pytest.raises(NoStream) as caught:
            await sb.enqueue("elsewhere", {})
    assert caught.value.subject == "elsewhere"


@pytest.mark.parametrize("silence", [RequestTimeout(), NoResponders()], ids=lambda error: type(error).__name__)
async def test_no_responders_is_retried_while_nobody_can_say_whether_a_stream_exists(silence):
    sb, backend = await broker_on(*[NoResponders()] * 3)
    backend.find = silence
    async with sb:
        assert (await sb.enqueue("s.a", {})).sequence == 1


async def test_a_role_that_may_not_ask_retries_and_then_believes_that_there_is_no_stream(monkeypatch):
    monkeypatch.setattr("broker.attempts._UNSURE", 0.2)
    sb, backend = await broker_on(*[NoResponders()] * 1000)
    backend.find = PermissionDenied(verb="publish", subject="$JS.API.STREAM.NAMES")
    async with sb:
        with pytest.raises(NoStream):
            await sb.enqueue("s.a", {}, timeout=5)
    assert len(backend.ids) > 1


async def test_a_core_subscriber_does_not_hide_that_there_is_no_stream(monkeypatch):
    monkeypatch.setattr("broker.attempts.ATTEMPT", 0.1)
    sb, _ = await broker_on()
    async with sb:
        await sb.subscribe("dashboard.>", print)
        with pytest.raises(NoStream):
            await asyncio.wait_for(sb.enqueue("dashboard.a", {}), 2)


async def test_a_conflict_with_somebody_else_is_a_conflict():
    sb, _ = await broker_on()
    async with sb:
        await sb.enqueue("s.a", {})
        with pytest.raises(SequenceConflict):
            await sb.enqueue("s.a", {}, expect=Expect(last_sequence=0))


async def test_closing_while_an_attempt_is_in_flight_is_unknown():
    sb, backend = await broker_on(BrokerClosed())
    async with sb:
        with pytest.raises(EnqueueUnknown):
            await sb.enqueue("s.a", {})
    assert len(backend.ids) == 1
    with pytest.raises(BrokerClosed):
        await sb.enqueue("s.a", {})


async def test_what_is_no_entry_is_an_error_of_its_own_index():
    sb, _ = await broker_on()
    async with sb:
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many([Entry("s.a", 1), ("s.a", 2), Entry("s.a", 3, expect={"last_sequence": 1})])
    assert sorted(caught.value.receipts) == [0]
    assert all(isinstance(error, InvalidOption) for error in caught.value.errors.values())


async def test_cancelling_an_enqueue_is_prompt():
    sb, _ = await broker_on(*[RequestTimeout()] * 100_000)
    async with sb:
        task = asyncio.create_task(sb.enqueue("s.a", {}, timeout=60))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_wire_ids_differ_where_subject_or_key_differ(subject, key, other_subject, other_key):
    if "\0" in subject + key + other_subject + other_key:
        return
    try:
        same = wire_id(subject, key) == wire_id(other_subject, other_key)
    except UnicodeEncodeError:
        return
    assert same == ((subject, key) == (other_subject, other_key))


@pytest.mark.parametrize(
    "key", ["", " a", "a ", "a\n", "a\x00b", "\x7f", "x" * 256, "ä" * 128, "\ud800", None, 7, b"k"]
)
def test_a_malformed_key_is_refused(key):
    with pytest.raises(InvalidKey):
        check_key(key)


@pytest.mark.parametrize("key", ["a", "battle-42", "a b", "x" * 255, "🎮", "*", ">"])
def test_a_sound_key_is_kept(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "given",
    [
        {"last_sequence": "abc"},
        {"last_sequence": -1},
        {"last_sequence": True},
        {"last_subject_sequence": 5.0},
        {"stream": "S\r\nNats-TTL: 1s"},
        {"last_msg_id": "a\r\nNats-Rollup: all"},
        {"last_msg_id": "\ud800"},
        {"subject_filter": "a b"},
    ],
)
def test_an_expectation_that_cannot_hold_is_refused_where_it_is_made(given):
    with pytest.raises((InvalidOption, InvalidSubject)):
        Expect(**given)


async def test_closed_while_asking_after_a_lost_answer_is_unknown():
    backend = ScriptedBackend("stored but silent")
    sb = StreamBroker(backend)
    await sb.declare(StreamOptions("S", ["s.>"]))
    backend.find = BrokerClosed()
    with pytest.raises(EnqueueUnknown):
        await sb.enqueue("s.a", 1)
