"""Whatever the server sends and however it is cut: the same events, or a refusal."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from broker.backends.nats.parser import ProtocolViolation
from broker.backends.nats.wire.protocol import Conversation

RECORDED = (
    b'INFO {"server_id":"S","max_payload":1048576,"headers":true,"nonce":"x"}\r\n'
    b"PONG\r\n"
    b"MSG a.b 1 2\r\nhi\r\n"
    b"PING\r\n"
    b"MSG a.b 12 reply.1 0\r\n\r\n"
    b"HMSG a.b 1 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\n"
    b"-ERR 'Permissions Violation for Publish to \"Foo\"'\r\n"
    b'INFO {"ldm":true,"connect_urls":["a:1"]}\r\n'
    b"HMSG a.b 1 r 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"MSG a.b 1 14\r\nPING\r\nPONG\r\n\r\n\r\n"
    b"+OK\r\n"
    b"PONG\r\n"
)


class Story:
    """Everything that happens. Messages are handed over at once, lines when the piece they came in is through."""

    def __init__(self):
        self.events = []
        self.messages = []
        self.conversation = Conversation(self, self, lambda frame: self.events.append(("said", frame)))

    def get(self, sid):
        """Every subscription is received here."""
        return lambda *message: self.messages.append((sid, *message))

    def on_info(self, info):
        self.events.append(("info", info))
        if len([each for each in self.events if each[0] == "info"]) == 1:
            self.conversation.ping(lambda: self.events.append("first pong"))
            self.conversation.ping(lambda: self.events.append("second pong"))

    def on_error(self, text):
        self.events.append(("error", text))

    def hear(self, pieces):
        for piece in pieces:
            self.conversation.receive(piece)
            if self.conversation.info is not None:
                self.conversation.talk()
        return self

    @property
    def told(self):
        return self.messages, self.events


WHOLE = Story().hear([RECORDED]).told


def cut(data, places):
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


def test_the_recording_has_everything():
    messages, events = WHOLE
    assert len(messages) == 5
    assert events[-1] == "second pong"
    assert [each[0] for each in events].count("info") == 2


def test_every_single_cut_tells_the_same_story():
    for place in range(len(RECORDED)):
        assert Story().hear(cut(RECORDED, [place])).told == WHOLE


def test_byte_by_byte_tells_the_same_story():
    assert Story().hear(RECORDED[at : at + 1] for at in range(len(RECORDED))).told == WHOLE


@given(st.lists(st.integers(0, len(RECORDED)), max_size=40))
def test_any_cuts_tell_the_same_story(places):
    assert Story().hear(cut(RECORDED, places)).told == WHOLE


WORDS = st.sampled_from(
    [
        b"MSG",
        b"HMSG",
        b" ",
        b"a",
        b"1",
        b"-1",
        b"4",
        b"99",
        b"\r\n",
        b"\n",
        b"\r",
        b"PING",
        b"INFO",
        b"{}",
        b"-ERR",
        b"\x00",
    ]
)


@given(st.one_of(st.binary(max_size=300), st.lists(WORDS, max_size=60).map(b"".join)), st.booleans(), st.data())
def test_garbage_is_refused_or_understood_and_nothing_else(garbage, greeted, data):
    story = Story()
    if greeted:
        story.hear([b"INFO {}\r\n"])
    places = data.draw(st.lists(st.integers(0, len(garbage)), max_size=5))
    try:
        story.hear(cut(garbage, places))
    except ProtocolViolation:
        return
    assert len(story.events) + len(story.messages) <= len(garbage) + 3


@given(
    st.lists(st.tuples(st.binary(max_size=200), st.booleans()), max_size=20),
    st.lists(st.integers(0, 4000), max_size=10),
)
def test_bodies_are_never_read_as_protocol(bodies, places):
    stream = b"INFO {}\r\n"
    for body, with_headers in bodies:
        if with_headers:
            stream += b"HMSG s 1 12 %d\r\nNATS/1.0\r\n\r\n%b\r\n" % (12 + len(body), body)
        else:
            stream += b"MSG s 1 %d\r\n%b\r\n" % (len(body), body)
    story = Story().hear(cut(stream, places))
    assert [each[3] for each in story.messages] == [body for body, _ in bodies]
