"""Who is asked for a stored message, and who after that."""

from types import SimpleNamespace

import pytest

from broker.backends.nats.direct import Direct
from broker.backends.nats.frames import WireHeaders
from broker.contracts.envelopes import Envelope, StoredMessage
from broker.contracts.errors import ApiError, NoResponders, PermissionDenied

HERE = (
    b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: s.a\r\n"
    b"Nats-Sequence: 7\r\nNats-Time-Stamp: 2026-11-20T23:33:20Z\r\n\r\n"
)
STORED = StoredMessage("s.a", b"body", None, "S", 7, 0)
DENIED = PermissionDenied(verb="publish", subject="x")


def answered(block):
    return Envelope("inbox", b"body", WireHeaders(block))


class Server:
    """Gives the answers it is told to, and notes who was asked."""

    def __init__(self, direct, api=STORED, *, clustered=False):
        self.asked = []
        self.requests = []
        self.clustered = clustered
        self._direct = direct
        self._api = api

    async def call(self, subject, data, _headers, _timeout):
        self.asked.append("copy")
        self.requests.append((subject, data))
        if isinstance(self._direct, Exception):
            raise self._direct
        return self._direct

    async def get_message(self, _stream, *, sequence, last_of):
        self.asked.append("leader")
        assert (sequence, last_of) == self.wanted
        if isinstance(self._api, Exception):
            raise self._api
        return self._api

    async def read(self, times=1, sequence=7, last_of=None):
        self.wanted = (sequence, last_of)
        direct = Direct(SimpleNamespace(connected_within=self._connected), self, self)
        return [await direct.get_message("S", sequence=sequence, last_of=last_of) for _ in range(times)][-1]

    async def _connected(self, timeout):
        return timeout


async def test_a_copy_that_has_it_is_enough():
    server = Server(answered(HERE), clustered=True)
    message = await server.read()
    assert (message.subject, message.data, message.sequence) == ("s.a", b"body", 7)
    assert message.timestamp_ns == 1795217600000000000
    assert server.asked == ["copy"]


async def test_a_single_server_that_has_it_not_is_believed():
    server = Server(answered(b"NATS/1.0 404 Message Not Found\r\n\r\n"))
    assert await server.read() is None
    assert server.asked == ["copy"]


async def test_in_a_cluster_the_leader_is_asked_before_it_is_said_not_to_be_there():
    server = Server(answered(b"NATS/1.0 404 Message Not Found\r\n\r\n"), clustered=True)
    assert await server.read() is STORED
    assert server.asked == ["copy", "leader"]


async def test_a_role_that_may_not_ask_the_leader_takes_the_copys_word():
    server = Server(answered(b"NATS/1.0 404 Message Not Found\r\n\r\n"), DENIED, clustered=True)
    assert await server.read() is None


async def test_where_nobody_answers_directly_the_leader_does():
    server = Server(NoResponders("nobody"))
    assert await server.read(2) is STORED
    assert server.asked == ["copy", "leader", "copy", "leader"]


async def test_a_role_that_may_not_read_directly_is_refused_once():
    server = Server(DENIED)
    assert await server.read(3) is STORED
    assert server.asked == ["copy", "leader", "leader", "leader"]


async def test_a_role_that_may_do_neither_is_told():
    with pytest.raises(PermissionDenied):
        await Server(DENIED, DENIED).read()


async def test_any_other_status_is_an_error_with_its_number():
    with pytest.raises(ApiError) as caught:
        await Server(answered(b"NATS/1.0 412 Required Api Level\r\n\r\n")).read()
    assert (caught.value.code, caught.value.description) == (412, "Required Api Level")


@pytest.mark.parametrize(
    ("last_of", "subject", "body"),
    [
        ("s.a", "$JS.API.DIRECT.GET.S.s.a", b""),
        ("s.*", "$JS.API.DIRECT.GET.S", b'{"last_by_subj":"s.*"}'),
        ("s.>", "$JS.API.DIRECT.GET.S", b'{"last_by_subj":"s.>"}'),
    ],
)
async def test_the_last_of_one_subject_is_asked_for_by_subject(last_of, subject, body):
    server = Server(answered(HERE))
    assert (await server.read(sequence=None, last_of=last_of)).sequence == 7
    assert server.requests == [(subject, body)]


async def test_one_subject_that_may_not_be_read_says_nothing_about_the_next():
    server = Server(DENIED)
    assert await server.read(2, sequence=None, last_of="s.a") is STORED
    assert server.asked == ["copy", "leader", "copy", "leader"]
