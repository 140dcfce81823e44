"""Waiting with a deadline: the first truthy answer, or what was answered last."""

import asyncio

import pytest

from broker.testing.waiting import eventually, never


async def test_the_first_truthy_answer_is_given():
    answers = iter([0, None, [], "yes", "later"])
    assert await eventually(lambda: next(answers)) == "yes"


async def test_an_async_question_is_awaited():
    async def ask():
        await asyncio.sleep(0)
        return 42

    assert await eventually(ask) == 42


async def test_a_deadline_tells_the_last_answer():
    with pytest.raises(AssertionError, match=r"not within 0\.05 s; the last answer was \[\]"):
        await eventually(list, within=0.05)


async def test_an_error_of_the_question_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


async def test_absence_is_proved_by_waiting():
    await never(lambda: None, during=0.05)
    with pytest.raises(AssertionError, match="should stay away"):
        await never(lambda: "came", during=0.05)
