"""The look that the first send brings about, when the server does not answer at once or at all."""

import asyncio
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from broker import ApiError, ConnectionLost, PermissionDenied, QoS, QoSViolation, contract
from broker.contracts.event_contracts import contract_of
from broker.quality import vetting
from broker.quality.vetting import FirstLook
from broker.testing.waiting import eventually


@contract(subject="a.b", qos=QoS.AT_MOST_ONCE)
@dataclass
class Moved:
    x: int


@contract(subject="a.c", qos=QoS.AT_LEAST_ONCE)
@dataclass
class Mailed:
    x: int


def answering(*answers):
    """A backend that says these one after the other; the last one stays."""
    left = list(answers)

    async def find_stream(subject):
        del subject
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(find_stream=find_stream)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(vetting, "_TROUBLE", (0.001, 0.01))


@pytest.mark.parametrize("trouble", [ConnectionLost(), ApiError(transient=True)])
async def test_it_asks_until_it_is_answered(trouble):
    look = FirstLook(contract_of(Moved), answering(trouble, trouble, "STREAM"))
    look.begin()
    await look.answered(10)
    with pytest.raises(QoSViolation) as caught:
        look.check()
    assert caught.value.stream == "STREAM"


async def test_who_may_not_ask_is_told_and_goes_on(caplog):
    look = FirstLook(contract_of(Moved), answering(PermissionDenied(verb="publish", subject="$JS.API.STREAM.NAMES")))
    with caplog.at_level(logging.WARNING, "broker.quality"):
        look.begin()
        await look.answered(10)
    look.check()
    assert "could not be found out" in caplog.text


async def test_a_silent_server_is_waited_for_no_longer_than_said_and_stopping_ends_it():
    look = FirstLook(contract_of(Moved), answering(ConnectionLost()))
    look.begin()
    await look.answered(0.01)
    look.check()
    await look.stop()
    await look.stop()
    assert [each for each in asyncio.all_tasks() if each.get_name().startswith("vet")] == []


async def test_a_look_that_finds_it_mended_forgets_the_violation():
    look = FirstLook(contract_of(Moved), answering("STREAM", None))
    with pytest.raises(QoSViolation):
        await look.again()
    await look.again()
    look.check()


async def test_closing_the_broker_ends_the_look(memory_stream_broker, monkeypatch):
    async def never(_):
        await asyncio.Event().wait()

    monkeypatch.setattr(memory_stream_broker._streams, "find_stream", never)
    await memory_stream_broker.send(Moved(1))
    await eventually(lambda: any(each.get_name().startswith("vet") for each in asyncio.all_tasks()))
    await memory_stream_broker.aclose()
    assert not any(each.get_name().startswith("vet") for each in asyncio.all_tasks())


async def test_cancelled_while_it_waits_for_the_answer_nothing_is_sent(memory_stream_broker, monkeypatch):
    async def never(_):
        await asyncio.Event().wait()

    monkeypatch.setattr(memory_stream_broker._streams, "find_stream", never)
    sending = asyncio.create_task(memory_stream_broker.send(Mailed(1)))
    await asyncio.sleep(0.02)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert memory_stream_broker.contract_stats(Mailed).sent == memory_stream_broker.stats.enqueued == 0
