"""Every operation of every role on a real server with the shipped configuration: what is needed works, all else not.

``python -m tests.integration.test_permissions`` writes docs/permissions.md anew.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
import pytest_asyncio

from broker import ConnectError, JetStreamNotEnabled, PermissionDenied, StreamBroker, Unauthorized
from broker.testing.waiting import eventually
from tests.deployment import NATS, ROLES, TOP, declare, shipped_server, single
from tests.operations import HOW, SUBJECTS, Scene
from tests.permissions import DENIED, MINE, NEEDED, OTHERS, PLAYER, STREAMS, page

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60), pytest.mark.xdist_group("shipped")]
PAGE = TOP / "docs" / "permissions.md"


@pytest.fixture(scope="module")
def server(secrets):
    """For all operations: what is denied changes nothing, and what is needed cleans up after itself."""
    with shipped_server(secrets) as node:
        yield node


class Roles:
    """Connects as a role, once.

    Attributes:
        denied: what the server denied to any of them.
    """

    def __init__(self, server, secrets, link):
        self._server, self._secrets, self._link = server, secrets, link
        self._opened = {}
        self.denied = []

    async def __call__(self, role):
        if role not in self._opened:
            self._opened[role] = await self._secrets.connect(self._server, role, link=self._link)
            self._opened[role]._backend.board.denials.watch(self.denied.append)
        return self._opened[role]

    async def close(self):
        for each in self._opened.values():
            await each.aclose()


@pytest_asyncio.fixture
async def as_role(server, secrets, request):
    """By the link of a test that asks for links; closed after the test."""
    roles = Roles(server, secrets, request.getfixturevalue("link") if "link" in request.fixturenames else None)
    yield roles
    await roles.close()


@pytest_asyncio.fixture
async def admin(as_role):
    admin = await as_role("admin")
    yield admin
    await emptied(admin)


async def emptied(admin):
    """Nothing is left for whoever comes next."""
    async for info in admin.streams.list():
        if info.messages:
            await admin.streams.purge(info.name)


async def stored(admin):
    """All that could be changed: streams with their settings and counts, consumers with their positions."""
    streams = [(info.config, info.messages, info.state.last_sequence) async for info in admin.streams.list()]
    consumers = [
        (info.name, info.ack_floor, info.pending, info.ack_pending)
        for stream in STREAMS
        async for info in admin.consumers.list(stream)
    ]
    return streams, consumers


async def waiting(admin, stream):
    return (await admin.consumers.info(stream, STREAMS[stream])).pending == 1


# -- what is denied


@pytest.mark.parametrize("role", [*ROLES, PLAYER])
async def test_what_a_role_does_not_need_is_denied_by_name_and_changes_nothing(role, as_role, admin):
    """All of it on one connection: the server refuses in order, and has refused everything before it says so."""
    sb, told = await as_role(role), []
    await admin.enqueue(SUBJECTS["SETTLEMENTS"], b"{}")
    await eventually(lambda: waiting(admin, "SETTLEMENTS"))
    before = await stored(admin)
    sb._backend.board.denials.watch(told.append)
    tried = [each for each in DENIED if each.role == role]
    for operation in tried:
        if operation.verb == "publish":
            await sb.publish(operation.subject, b"{}")
        else:
            with suppress(PermissionDenied):
                await sb.subscribe(operation.subject, print)
    await sb.flush()
    assert [(each.verb, each.subject) for each in told] == [(each.verb, each.subject) for each in tried]
    assert await stored(admin) == before
    assert sb.status == "connected"


async def test_a_denied_request_fails_at_once(as_role):
    """It does not wait for its time-out."""
    sb = await as_role("leaderboard")
    async with asyncio.timeout(10):
        with pytest.raises(PermissionDenied):
            await sb.request("battle.settle", b"", timeout=50)


async def test_whoever_does_not_say_who_they_are_is_let_in_nowhere(server, secrets):
    for login in ({}, {"user": "room", "password": "wrong"}, {"user": "nobody", "password": "x"}, {"token": "x"}):
        with pytest.raises(Unauthorized):
            await StreamBroker.connect(server.url, tls=secrets.tls(), connect_timeout=10, **login)


async def test_without_the_authority_nobody_is_talked_to(server, secrets):
    """Not the other way round either: no password goes to a server that cannot show whose it is."""
    with pytest.raises(ConnectError, match="TLS failed"):
        await StreamBroker.connect(server.url, user="room", password=secrets.password("room"), connect_timeout=10)


async def test_a_player_reaches_nothing_else_whatever_its_permissions_say(secrets):
    """The account keeps them apart: here somebody gave a session everything."""
    node = single(secrets)
    narrow = (NATS / "players.conf").read_text()
    wide = 'users: [{ user: session-1, password: $SESSION_1_PASSWORD, permissions: { publish: ">", subscribe: ">" } }]'
    assert narrow in node.settings.text
    node.settings = replace(node.settings, text=node.settings.text.replace(narrow, wide))
    async with node:
        await declare(node, secrets)
        async with secrets.connect(node, PLAYER) as player, secrets.connect(node, "admin") as admin:
            heard = []
            await player.subscribe(">", lambda msg: heard.append(msg.subject))
            before = await stored(admin)
            tried = ["battle.settle", "leaderboard.update", "mail.ann", "$JS.API.STREAM.DELETE.MAIL"]
            for subject in tried:
                await player.publish(subject, b"{}")
            await player.flush()
            await eventually(lambda: set(tried) <= set(heard))
            assert await stored(admin) == before
            await admin.enqueue("mail.ann", b"{}")
            with pytest.raises(JetStreamNotEnabled):
                await player.streams.info("MAIL")
            await player.flush()
            assert heard.count("mail.ann") == 1, "its own, not the services'"


# -- what is needed


@pytest.mark.usefixtures("link")
@pytest.mark.parametrize("role", [*ROLES, PLAYER])
async def test_what_a_role_needs_works_and_nobody_is_denied_anything(role, as_role, admin):
    for operation in (each for each in NEEDED if each.role == role):
        try:
            await HOW[operation.how](Scene(role, as_role, admin))
            assert as_role.denied == []
        except Exception as error:
            error.add_note(f"{role}: {operation.what}")
            raise
        await emptied(admin)


# -- the table


def test_the_page_is_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.integration.test_permissions"


def test_every_role_is_in_the_table_both_ways():
    for operations in (DENIED, NEEDED):
        assert {each.role for each in operations} == {*ROLES, PLAYER}
    assert set(HOW) == {each.how for each in NEEDED}
    assert len(DENIED) + len(NEEDED) >= 77
    assert MINE != OTHERS


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
