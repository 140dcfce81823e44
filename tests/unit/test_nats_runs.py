"""Who is asked for a run of messages in a cluster, whose copies may not have everything yet."""

from types import SimpleNamespace

import pytest

from broker.backends.nats.runs import Runs
from broker.contracts.envelopes import StoredMessage
from broker.contracts.errors import NoResponders, PermissionDenied


def stored(*sequences):
    return [StoredMessage("s.a", b"", None, "S", sequence, 0) for sequence in sequences]


class Server:
    """A copy that gives the pages it is told to, and a leader that has everything up to a sequence."""

    def __init__(self, *pages, newest=0, denied=False):
        self.pages = list(pages)
        self.newest = newest
        self.denied = denied
        self.asked = []

    async def next_message(self, _stream, start, _pattern, _asked):
        self.asked.append(("leader", start))
        if self.denied:
            raise PermissionDenied(verb="publish", subject="x")
        return (start, stored(start)[0]) if start <= self.newest else (0, None)

    def page(self, *_):
        step = self.pages.pop(0)
        page = SimpleNamespace(more=False, last=0)

        async def read(request):
            self.asked.append(("copy", request["seq"]))
            if isinstance(step, Exception):
                raise step
            found, page.more = step
            page.last = found[-1].sequence if found else 0
            return found

        page.read = read
        return page

    async def run(self, monkeypatch, *, clustered=True, limit=10):
        monkeypatch.setattr("broker.backends.nats.runs.Page", self.page)
        runs = Runs(SimpleNamespace(), SimpleNamespace(clustered=clustered), self, set())
        run = runs.get_many("S", start=1, subject=None, limit=limit, max_bytes=None)
        return [message.sequence async for message in run]


async def test_one_server_is_believed(monkeypatch):
    server = Server((stored(1, 2), True), (stored(3), False), newest=9)
    assert await server.run(monkeypatch, clustered=False) == [1, 2, 3]
    assert server.asked == [("copy", 1), ("copy", 3)]


async def test_where_a_copy_ends_the_leader_is_asked_and_the_copies_go_on(monkeypatch):
    server = Server((stored(1, 2), False), (stored(4, 5), False), ([], False), newest=6)
    assert await server.run(monkeypatch) == [1, 2, 3, 4, 5, 6]
    assert server.asked == [("copy", 1), ("leader", 3), ("copy", 4), ("leader", 6), ("copy", 7), ("leader", 7)]


async def test_a_copy_that_has_nothing_yet_is_no_end(monkeypatch):
    server = Server(([], False), ([], False), ([], False), newest=2)
    assert await server.run(monkeypatch) == [1, 2]


async def test_what_is_enough_needs_no_leader(monkeypatch):
    server = Server((stored(1, 2), False), newest=9)
    assert await server.run(monkeypatch, limit=2) == [1, 2]
    assert server.asked == [("copy", 1)]


async def test_a_role_that_may_not_ask_the_leader_takes_the_copys_word(monkeypatch):
    server = Server((stored(1, 2), False), newest=9, denied=True)
    assert await server.run(monkeypatch) == [1, 2]


@pytest.mark.parametrize("refusal", [NoResponders(), PermissionDenied(verb="publish", subject="x")], ids=str)
async def test_where_no_copy_answers_the_leader_does(monkeypatch, refusal):
    server = Server(*[refusal] * 4, newest=3)
    assert await server.run(monkeypatch) == [1, 2, 3]
    copies = [start for who, start in server.asked if who == "copy"]
    assert copies == ([1, 2, 3, 4] if isinstance(refusal, NoResponders) else [1])


async def test_a_role_that_may_do_neither_is_told(monkeypatch):
    with pytest.raises(PermissionDenied):
        await Server(PermissionDenied(verb="publish", subject="x"), denied=True).run(monkeypatch)
