"""Whatever comes from a caller or over the wire: understood, or one typed error. `make fuzz` tries 5,000 of each.

A property here says nothing about what is right, only that nothing else happens: no other exception, no hang (each
example has a deadline), no growth.
"""

import gc
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker import BrokerError, Headers, InvalidHeader, InvalidKey, InvalidSubject, Subject
from broker.backends.nats.ack_subject import reader
from broker.backends.nats.complaints import violation
from broker.backends.nats.frames import header_block, parse_pairs, parse_status
from broker.backends.nats.parser import ProtocolViolation
from broker.backends.nats.statuses import allowed_batch, allowed_seconds, event_of, judge, missing
from broker.backends.nats.wire.protocol import Conversation
from broker.codecs import BytesCodec, JsonCodec, MsgpackCodec
from broker.contracts.envelopes import Delivery, StoredMessage
from broker.contracts.errors import DecodeError, EncodeError
from broker.contracts.headers import error_kind
from broker.contracts.lanes import key_of_token, key_token, lane_of_filter, place_of
from broker.contracts.subjects import publish_subject, resource_name, subscribe_pattern
from broker.keys import check_key, wire_id
from broker.lanes.records import attempt_at, parked_delivery, turn_of, waiting_of
from broker.letters import FromLane, letter_of, record_of, revived
from broker.rescheduling.copies import as_first_stored
from broker.state.following import Follower
from broker.state.frames import from_array, from_snapshot

CODECS = [JsonCodec(), MsgpackCodec()]
HUGE = "9" * 5_000
"""More digits than Python makes a number of."""

anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=40)
subject_like = st.text(st.sampled_from("ab*>. \t\0é\u202e\ud800$"), max_size=24) | st.integers(0, 600).map("x".__mul__)
numbers = st.sampled_from(["", "0", "-1", "1", "²", "٣", "1e9", " 1", "0x1", "nan", HUGE]) | st.integers().map(str)
times = st.sampled_from(["", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:60Z"])
values = numbers | times | st.text(max_size=30)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
frame_like = st.builds(
    lambda frame, at, what: [*frame[:at], what, *frame[at + 1 :]],
    st.sampled_from([[1, "K", 1, 1, 1, 0, 1, 0.0, 0, [], {}], [1, "D", 1, 1, 2, 1, 2, 0.0, 0, [], [{}, {}, [], {}]]]),
    st.integers(0, 10),
    trees,
)


@dataclass
class Player:
    name: str
    hp: int = 0


STRANGE = [object(), {1: 2}, {(1, 2): 3}, {1, 2}, Player, Player("a"), 1j, "\ud800"]


@given(subject_like | anything)
def test_a_subject_is_taken_or_refused(given_subject):
    for check in (publish_subject, subscribe_pattern, Subject.token, Subject.validate, Subject.validate_pattern):
        with suppress(InvalidSubject):
            check(given_subject)
    with suppress(InvalidSubject):
        resource_name(given_subject, "stream")


@given(st.dictionaries(st.text(max_size=12) | anything, values | anything | st.lists(anything, max_size=3)) | anything)
def test_headers_are_taken_or_refused(given_headers):
    with suppress(InvalidHeader):
        taken = Headers.checked(given_headers)
        if taken is not None:
            assert parse_pairs(header_block(taken.pairs)) == tuple(taken.pairs)


@given(st.text(max_size=300) | anything)
def test_a_key_is_taken_or_refused_and_is_one_token(given_key):
    with suppress(InvalidKey):
        key = check_key(given_key)
        assert len(publish_subject(f"a.{key_token(key)}").split(".")) == 2
        assert key_of_token(key_token(key)) in {key, None}
        assert wire_id("a", key) != wire_id("b", key)


@given(st.sampled_from(["", "gamebroker.lane.", "gamebroker.again."]), st.lists(values, max_size=8))
@example("gamebroker.lane.", ["²", "²", "k", "a"])
@example("gamebroker.lane.", [HUGE, "1", "k", "a"])
def test_a_stored_subject_is_read_whatever_it_is(prefix, tokens):
    stored = prefix + ".".join(tokens)
    place = place_of(stored)
    lane_of_filter(stored)
    if place.key is not None:
        key_of_token(place.key)


@given(frame_like | trees | st.lists(trees, max_size=12))
def test_a_state_frame_is_read_or_refused(array):
    follower = Follower("battle.1.state")
    with suppress(DecodeError):
        follower.take(from_array(array), 0.0)
        assert follower.unread in {0, 1}
    with suppress(DecodeError):
        follower.take_snapshot(from_snapshot(array), 0.0)
    with suppress(DecodeError):
        follower.take_snapshot(from_snapshot([array]), 0.0)


@pytest.mark.parametrize("codec", CODECS, ids=["json", "msgpack"])
@given(
    data=st.binary(max_size=200) | st.text(max_size=60).map(str.encode) | st.integers(0, 3000).map(lambda n: b"[" * n)
)
def test_bytes_are_decoded_or_refused(codec, data):
    with suppress(DecodeError):
        codec.loads(data)
    for into in (Player, dict[str, int], list[Player], int):
        with suppress(DecodeError):
            codec.decode(data, into)


@pytest.mark.parametrize("codec", [*CODECS, BytesCodec()], ids=["json", "msgpack", "bytes"])
@given(
    body=trees | anything | st.sampled_from([object(), {1: 2}, {(1, 2): 3}, {1, 2}, Player, Player("a"), 1j, "\ud800"])
)
def test_an_object_is_encoded_or_refused(codec, body):
    with suppress(EncodeError):
        assert type(codec.encode(body)) is bytes


LETTER_NAMES = st.sampled_from(
    [
        *(f"Gamebroker-Dead-{each}" for each in ("Subject", "Stream", "Consumer", "Sequence", "Attempts", "Reason")),
        *(
            f"Gamebroker-Dead-{each}"
            for each in ("Error", "First-Seen", "Last-Seen", "Lane-Key", "Stream-Made", "Body")
        ),
        *(
            f"Gamebroker-Parked-{each}"
            for each in ("Subject", "Attempts", "Stored", "Due", "Letter", "Turn", "Revived")
        ),
        *(f"Gamebroker-Later-{each}" for each in ("Subject", "Sequence", "Stored", "Attempts", "Lane-Key")),
        *(
            "Gamebroker-Dead-Body",
            "Gamebroker-Parked-Revived",
            "Gamebroker-Key",
            "Gamebroker-Ordering-Key",
            "Gamebroker-Error",
            "Nats-Msg-Id",
            "mine",
        ),
    ]
)
written_by_anybody = st.builds(Headers, st.lists(st.tuples(LETTER_NAMES, values), max_size=14))


@given(written_by_anybody, st.lists(values, max_size=7).map(".".join))
@example(Headers([("Gamebroker-Dead-Sequence", HUGE), ("Gamebroker-Dead-Stream-Made", HUGE)]), "a")
@example(Headers([("Gamebroker-Parked-Turn", HUGE)]), "a")
@example(Headers([("Gamebroker-Parked-Stored", HUGE), ("Gamebroker-Parked-Subject", "s")]), "p.1.k.1")
@example(Headers([("Gamebroker-Parked-Stored", "²"), ("Gamebroker-Parked-Subject", "s")]), "p.1.k.1")
def test_what_anybody_wrote_among_letters_and_parked_messages_is_read(headers, subject):
    stored = StoredMessage(subject, b"x", headers, "S", 7, 1_800_000_000_000_000_000)
    delivery = Delivery(subject, b"x", headers, "S", "c", 7, 1, stored.timestamp_ns, 0, None, lane_key="k", again=True)
    letter = letter_of(stored)
    revived(letter, None)
    revived(letter, stored)
    record_of(delivery, "why", ValueError("no"), complete=True, lane=FromLane("k", 1))
    as_first_stored(delivery, "S", "c")
    waiting_of(stored)
    turn_of(delivery)
    parked_delivery("S", "q", stored)
    attempt_at(stored, delivery)
    error_kind(headers)


@given(
    st.binary(max_size=120) | st.lists(values, max_size=12).map(lambda words: b"$JS.ACK." + ".".join(words).encode())
)
def test_an_ack_subject_is_read_or_refused(subject):
    with suppress(ValueError, BrokerError, ProtocolViolation):
        reader(subject)(subject)


@given(st.binary(max_size=120), st.integers(0, 1000), values)
@example(b"NATS/1.0 " + HUGE.encode() + b"\r\n\r\n", 409, f"Exceeded MaxRequestBatch of {HUGE}")
@example(b"NATS/1.0 408\r\nNats-Pending-Messages: " + HUGE.encode() + b"\r\n\r\n", 409, "MaxRequestExpires of ²s")
def test_headers_statuses_and_complaints_of_a_server_are_read(block, status, words):
    for each in (block, b"NATS/1.0 " + block):
        parse_pairs(each)
        parse_status(each)
        missing(each)
    judge(status, words)
    event_of(status, words)
    allowed_batch(f"Exceeded MaxRequestBatch of {words}")
    allowed_seconds(f"Exceeded MaxRequestExpires of {words}")
    violation(f"Permissions Violation for Publish to {words}")


class Deaf:
    """Hears everything and keeps nothing."""

    def get(self, _sid):
        return lambda *_: None

    def on_info(self, _info):
        pass

    def on_error(self, _text):
        pass


def nonsense(number):
    """Different every time, as an attacker's would be."""
    word = f"x{number}"
    conversation = Conversation(Deaf(), Deaf(), lambda _: None)
    with suppress(ProtocolViolation):
        conversation.receive(f"INFO {{}}\r\nMSG {word} 1 3\r\nabc\r\n-ERR '{word}'\r\nHMSG {word} 1 99 3\r\n".encode())
    for check in (publish_subject, subscribe_pattern, check_key):
        with suppress(BrokerError):
            check(f"{word}..{word}\n")
            check(word)
    place_of(f"gamebroker.lane.0.0.{key_token(word)}.{word}")
    letter_of(StoredMessage(word, b"", Headers([(word, word), ("Gamebroker-Dead-Sequence", word)]), "S", 1, 0))
    for codec in CODECS:
        with suppress(DecodeError):
            codec.loads(b'{"' + word.encode())
    with suppress(DecodeError):
        from_array([1, word])


@pytest.mark.timeout(120)
def test_nonsense_leaves_nothing_behind():
    """What is remembered of subjects and keys is bounded, and full before anything is measured."""
    tracemalloc.start()
    try:
        for number in range(9_000):
            for remember in (publish_subject, subscribe_pattern, key_token):
                remember(f"y{number:06}")
        sizes = []
        for window in range(5):
            for number in range(500):
                nonsense(100_000 + 500 * window + number)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # What leaks does so in every window; a table that is made larger once is none.
    growth = [later - earlier for earlier, later in pairwise(sizes[1:])]
    assert min(growth) < 10_000, growth
