"""A broker on a stage, the verbs called on it, and what the server knows of it."""

import asyncio
import json
from dataclasses import dataclass, field
from urllib.request import urlopen

import pytest

from broker import StreamBroker
from broker.testing.waiting import eventually
from tests.accounts import grown

BOUND = 5.0
"""Seconds a clean-up after a cancellation may take on a busy machine; most come out at once."""
AGAIN = 2.0
"""Seconds in which a message somebody was cancelled with is handed out again: far less than the ack wait."""
ACK_WAIT = 60.0
GIVEN_BACK = 1000
"""Attempts of a message that one cancelled consumer after the other gives back: each hand-out counts as one."""
LIMIT = 1 << 20
VERBS = {}


def verb(work):
    """An entry of the table: called for each run, with the stage."""
    VERBS[work.__name__] = work
    return work


@dataclass
class Stage:
    url: str
    link: str | None
    sb: StreamBroker
    stream: str
    monitoring: str | None
    seen: list = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    kept: dict = field(default_factory=dict)

    async def connect(self):
        return await StreamBroker.connect(self.url, link=self.link, outbound_limit=LIMIT)

    def subject(self, token="a"):
        return f"{self.stream}.{token}"

    def see(self, what):
        """Something was handled."""
        self.seen.append(what)
        self.news.set()

    async def sees_more_than(self, before):
        """A wait or two however long it takes, where polling would be one more to be cancelled at with each look."""
        while len(self.seen) <= before:
            self.news.clear()
            await self.news.wait()

    async def works(self):
        """One round trip of each tier on the same connection."""
        assert (await self.sb.request(f"echo.{self.stream}", b"x")).data == b"x"
        await self.sb.enqueue(self.subject("works"), b"x")

    async def unchanged(self, before, tasks):
        """As it was, at once or in a moment: what a clean-up sends still has to be answered."""

        def left():
            return grown(self.sb, before), [repr(task) for task in asyncio.all_tasks() - tasks]

        try:
            await eventually(lambda: not any(left()), within=BOUND)
        except AssertionError:
            pytest.fail(f"left behind: {left()}", pytrace=False)

    async def subscriptions(self):
        """What the server knows of everybody's interest."""
        if self.monitoring is None:
            return None
        return await asyncio.to_thread(self._ask, "/connz?subs=1")

    def _ask(self, path):
        with urlopen(self.monitoring + path, timeout=5) as answer:
            told = json.load(answer)
        return sorted(len(each.get("subscriptions_list") or ()) for each in told["connections"])
