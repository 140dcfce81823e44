"""The conversation with a server, without a socket."""

import orjson
import pytest

from broker.backends.nats.parser import MAX_LINE, ProtocolViolation
from broker.backends.nats.wire.info import parse_info
from broker.backends.nats.wire.protocol import Conversation, connect_frame

INFO = b'INFO {"server_id":"S","max_payload":1024,"headers":true,"connect_urls":["a:1","b:2"]}\r\n'


class Ear:
    def __init__(self):
        self.messages, self.infos, self.errors, self.said = [], [], [], []
        self.conversation = Conversation(self, self, self.said.append)

    def get(self, sid):
        """Every subscription is received here."""
        return lambda *message: self.messages.append((sid, *message))

    def on_info(self, info):
        self.infos.append(info)

    def on_error(self, text):
        self.errors.append(text)


@pytest.fixture
def ear():
    return Ear()


@pytest.fixture
def talking(ear):
    ear.conversation.receive(INFO)
    ear.conversation.talk()
    return ear


class TestGreeting:
    def test_info_is_heard_once_it_is_whole(self, ear):
        for each in (INFO[:1], INFO[1:20], INFO[20:-1]):
            ear.conversation.receive(each)
            assert ear.conversation.info is None
        ear.conversation.receive(INFO[-1:])
        assert ear.conversation.info == ear.infos[0]
        assert (ear.infos[0].max_payload, ear.infos[0].connect_urls) == (1024, ("a:1", "b:2"))

    def test_what_follows_info_waits_until_we_talk(self, ear):
        ear.conversation.receive(INFO + b"PING\r\nMSG a 1 1\r\nx\r\n")
        assert (ear.said, ear.messages) == ([], [])
        ear.conversation.talk()
        assert (ear.said, ear.messages) == ([b"PONG\r\n"], [(b"1", b"a", b"", b"x", None)])

    def test_tls_refuses_what_was_said_in_the_clear(self, ear):
        ear.conversation.receive(INFO)
        ear.conversation.secure()
        ear.conversation.receive(b"MSG")
        with pytest.raises(ProtocolViolation):
            ear.conversation.secure()

    @pytest.mark.parametrize("early", [INFO + b"-ERR 'maximum connections exceeded'\r\n", b"-ERR 'no'\r\n" + INFO])
    def test_an_early_error_is_heard(self, ear, early):
        ear.conversation.receive(early)
        assert len(ear.errors) == 1

    @pytest.mark.parametrize(
        "greeting",
        [
            b"HTTP/1.1 400 Bad Request\r\n",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"PING\r\n",
            b"MSG a 1 0\r\n\r\n",
            b"INFO nothing\r\n",
            b"INFO []\r\n",
            b'INFO {"max_payload":"much"}\r\n',
            b'INFO {"connect_urls":{}}\r\n',
            b"\x15\x03\x01\x00\x02\x02\x16\r\n",
            b"x" * (MAX_LINE + 1),
        ],
    )
    def test_anybody_else_is_no_nats_server(self, ear, greeting):
        with pytest.raises(ProtocolViolation):
            ear.conversation.receive(greeting)


class TestTalk:
    def test_ping_is_answered(self, talking):
        talking.conversation.receive(b"PING\r\nPING\r\n")
        assert talking.said == [b"PONG\r\n"] * 2

    def test_pongs_answer_in_order(self, talking):
        answers = []
        talking.conversation.ping(lambda: answers.append(1))
        talking.conversation.ping()
        talking.conversation.ping(lambda: answers.append(2))
        assert talking.said == [b"PING\r\n"] * 3
        for expected in ([1], [1], [1, 2], [1, 2]):
            talking.conversation.receive(b"PONG\r\n")
            assert answers == expected

    def test_errors_keep_their_case(self, talking):
        talking.conversation.receive(b"-ERR 'Permissions Violation for Publish to \"Foo.Bar\"'\r\n")
        assert talking.errors == ['Permissions Violation for Publish to "Foo.Bar"']

    def test_a_later_info_is_told(self, talking):
        talking.conversation.receive(b'INFO {"ldm":true,"max_payload":7}\r\n')
        assert talking.conversation.info.lame_duck
        assert talking.infos[-1].max_payload == 7

    @pytest.mark.parametrize(
        "garbage", [b"HELLO\r\n", b"MSG a 1 x\r\n", b"MSG a 1 " + b"9" * 5000 + b"\r\n", b"INFO {\r\n", b"\xff\r\n"]
    )
    def test_garbage_ends_it(self, talking, garbage):
        with pytest.raises(ProtocolViolation):
            talking.conversation.receive(garbage)

    def test_whatever_arrives_is_a_sign_of_life(self, talking):
        talking.conversation.heard = False
        talking.conversation.receive(b"M")
        assert talking.conversation.heard


class TestConnect:
    def test_it_says_what_we_can_and_who_we_are(self):
        info = parse_info(b'{"headers":true}')
        line = connect_frame(info, {"user": "ann", "pass": "s"}, name="room", echo=False, tls=True)
        assert line.startswith(b"CONNECT {")
        assert line.endswith(b"}\r\n")
        told = orjson.loads(line[8:])
        assert (
            told.items()
            >= {
                "verbose": False,
                "pedantic": False,
                "protocol": 1,
                "headers": True,
                "no_responders": True,
                "echo": False,
                "tls_required": True,
                "name": "room",
                "user": "ann",
                "pass": "s",
            }.items()
        )

    def test_an_old_server_is_not_promised_headers(self):
        told = orjson.loads(connect_frame(parse_info(b"{}"), {}, name=None, echo=True, tls=False)[8:])
        assert (told["headers"], told["no_responders"], "name" in told) == (False, False, False)
