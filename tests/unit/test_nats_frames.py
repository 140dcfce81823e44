"""Frames out, bytes in, and the small grammars of the protocol."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.backends.nats import ack_subject, complaints, errors, frames, statuses
from broker.backends.nats.addresses import parse
from broker.backends.nats.parser import MAX_LINE, Parser, ProtocolViolation
from broker.backends.nats.statuses import Verdict
from broker.contracts.errors import (
    ApiError,
    ConsumerNotFound,
    InvalidOption,
    PayloadTooLarge,
    SequenceConflict,
    StorageFull,
    StreamFull,
    StreamNotFound,
)
from broker.contracts.headers import Headers
from broker.contracts.options import ConnectOptions


class TestFrames:
    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000])
    def test_pub(self, size):
        data = b"x" * size
        assert frames.pub(frames.pub_head(b"a.b"), data) == b"PUB a.b %d\r\n%b\r\n" % (size, data)
        assert frames.pub(frames.pub_head(b"a.b", b"r"), data) == b"PUB a.b r %d\r\n%b\r\n" % (size, data)

    def test_hpub(self):
        block = frames.header_block([("A", "1"), ("A", "ü")])
        assert block == "NATS/1.0\r\nA: 1\r\nA: ü\r\n\r\n".encode()
        assert frames.hpub(b"a", b"r", block, b"xy") == b"HPUB a r 25 27\r\n" + block + b"xy\r\n"
        assert frames.hpub(b"a", b"", block, b"xy") == b"HPUB a  25 27\r\n" + block + b"xy\r\n"

    def test_sub(self):
        assert frames.sub(b"a.*", None, 7) == b"SUB a.* 7\r\n"
        assert frames.sub(b"a.*", "q", 7) == b"SUB a.* q 7\r\n"
        assert frames.unsub(7) == b"UNSUB 7\r\n"

    @given(
        st.lists(
            st.tuples(
                st.from_regex(r"[!-9;-~]{1,20}", fullmatch=True),
                st.text(st.characters(exclude_characters="\r\n\x00", exclude_categories=["Cs"])).map(
                    lambda text: text.strip(" \t")
                ),
            )
        )
    )
    def test_headers_come_back(self, pairs):
        headers = frames.WireHeaders(frames.header_block(pairs))
        assert headers.pairs == tuple(pairs)
        assert headers.status == 0

    def test_a_status_line(self):
        headers = frames.WireHeaders(b"NATS/1.0 503\r\n\r\n")
        assert (headers.status, headers.status_text, headers.pairs) == (503, "", ())
        headers = frames.WireHeaders(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n")
        assert (headers.status, headers.status_text) == (408, "Request Timeout")
        assert headers["nats-pending-messages"] == "3"

    def test_blanks_around_values_are_dropped_and_order_is_kept(self):
        headers = frames.WireHeaders(b"NATS/1.0\r\nB:1\r\na: \t2 \r\nB:  3\r\nno colon\r\n\r\n")
        assert headers.pairs == (("B", "1"), ("a", "2"), ("B", "3"))
        assert isinstance(headers, Headers)
        assert headers.get_all("b") == ["1", "3"]


class Everybody:
    """Receivers of every subscription: what came, its number first."""

    def __init__(self, take):
        self.take = take

    def get(self, sid):
        return lambda *message: self.take((sid, *message))


class TestParser:
    MESSAGES = (
        b"MSG a.b 1 2\r\nhi\r\n"
        b"PING\r\n"
        b"MSG a.b 12 reply.1 0\r\n\r\n"
        b"HMSG a.b 1 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\n"
        b"-ERR 'Permissions Violation for Publish to \"Foo\"'\r\n"
        b"HMSG a.b 1 r 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
        b"MSG a.b 1 4\r\n\r\n\r\n\r\n"
        b"+OK\r\n"
    )
    SEEN = (
        (b"1", b"a.b", b"", b"hi", None),
        (b"12", b"a.b", b"reply.1", b"", None),
        (b"1", b"a.b", b"", b"hi", b"NATS/1.0\r\nA:1\r\n\r\n"),
        (b"1", b"a.b", b"r", b"", b"NATS/1.0 503\r\n\r\n"),
        (b"1", b"a.b", b"", b"\r\n\r\n", None),
    )
    LINES = (b"PING", b"-ERR 'Permissions Violation for Publish to \"Foo\"'", b"+OK")

    @given(st.lists(st.integers(0, 200), max_size=30))
    def test_it_does_not_matter_how_the_bytes_are_cut(self, cuts):
        seen, lines = [], []
        parser = Parser(Everybody(seen.append))
        edges = [0, *sorted(min(cut, len(self.MESSAGES)) for cut in cuts), len(self.MESSAGES)]
        for start, stop in pairwise(edges):
            lines += parser.feed(self.MESSAGES[start:stop])
        assert (tuple(seen), tuple(lines)) == (self.SEEN, self.LINES)

    def test_a_large_message_is_gathered_not_scanned_again(self):
        seen = []
        parser = Parser(Everybody(seen.append))
        parser.feed(b"MSG a 1 1000000\r\n")
        for _ in range(1000):
            assert parser.feed(b"x" * 1000) == []
        assert seen == []
        parser.feed(b"\r\n")
        assert len(seen[0][3]) == 1_000_000

    def test_reset_forgets_half_a_message(self):
        seen = []
        parser = Parser(Everybody(seen.append))
        parser.feed(b"MSG a 1 10\r\nxx")
        parser.reset()
        assert parser.feed(b"MSG a 1 1\r\ny\r\nPING\r\n") == [b"PING"]
        assert [each[3] for each in seen] == [b"y"]

    @pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
    def test_a_receiver_that_raises_loses_its_message_only(self, error, caplog):
        seen = []

        def receive(*message):
            seen.append(message)
            if len(seen) == 1:
                raise error

        parser = Parser({b"1": receive})
        assert parser.feed(b"MSG a 1 1\r\nx\r\nMSG b 2 1\r\nn\r\nMSG a 1 1\r\ny\r\nPING\r\n") == [b"PING"]
        assert [each[2] for each in seen] == [b"x", b"y"]
        assert "receiving on a failed" in caplog.text

    @pytest.mark.parametrize(
        "garbage", [b"MSG a 1 x\r\n", b"MSG\r\n", b"HMSG a 1 5\r\nhello\r\n", b"y" * (MAX_LINE + 1)]
    )
    def test_garbage_is_refused(self, garbage):
        with pytest.raises(ProtocolViolation):
            Parser({}).feed(garbage)


class TestAckSubject:
    @pytest.mark.parametrize(
        ("head", "tail"),
        [
            (b"$JS.ACK.ORDERS.worker.", b""),
            (b"$JS.ACK._.hash.ORDERS.worker.", b""),
            (b"$JS.ACK.hub.hash.ORDERS.worker.", b".random"),
            (b"$JS.ACK.hub.hash.ORDERS.worker.", b".random.more"),
        ],
    )
    def test_a_consumers_numbers_in_every_version(self, head, tail):
        read = ack_subject.reader(head + b"1.1.1.1.0" + tail)
        assert read(head + b"3.17.9.1795217600267703722.5" + tail) == (3, 17, 9, 1795217600267703722, 5)
        assert read(head + b"1.18446744073709551615.9.1.0" + tail) == (1, 18446744073709551615, 9, 1, 0)

    @pytest.mark.parametrize("subject", [b"", b"_INBOX.a.b", b"$JS.ACK.a.b.1.2.3.4", b"$JS.ACK.a.b.1.2.3.4.5.6"])
    def test_anything_else_is_refused(self, subject):
        with pytest.raises(ValueError, match="not an ack subject"):
            ack_subject.reader(subject)


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "text", "verdict"),
        [
            (100, "Idle Heartbeat", Verdict.ALIVE),
            (404, "No Messages", Verdict.OVER),
            (408, "Request Timeout", Verdict.OVER),
            (408, "Interest Expired", Verdict.OVER),
            (409, "Consumer Deleted", Verdict.GONE),
            (409, "Leadership Change", Verdict.MOVED),
            (409, "Server Shutdown", Verdict.LATER),
            (409, "Exceeded MaxWaiting", Verdict.LATER),
            (409, "Exceeded MaxRequestBatch of 10", Verdict.SMALLER),
            (409, "Exceeded MaxRequestExpires of 10s", Verdict.SHORTER),
            (409, "Message Size Exceeds MaxBytes", Verdict.TOO_LARGE),
            (409, "Consumer is push based", Verdict.REFUSED),
            (409, "something new", Verdict.LATER),
            (400, "Bad Request", Verdict.REFUSED),
            (423, "Nats-Wrong-Pin-Id", Verdict.LATER),
            (503, "", Verdict.CHECK),
        ],
    )
    def test_every_one_has_a_verdict(self, status, text, verdict):
        assert statuses.judge(status, text) is verdict

    def test_numbers_in_words(self):
        assert statuses.allowed_batch("Exceeded MaxRequestBatch of 10") == 10
        assert statuses.allowed_batch("?") == 1
        assert statuses.allowed_seconds("Exceeded MaxRequestExpires of 1m30s") == 90
        assert statuses.allowed_seconds("Exceeded MaxRequestExpires of 250ms") == 0.25
        assert statuses.allowed_seconds("?") == 1
        assert statuses.missing(b"NATS/1.0 408 x\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 0\r\n\r\n") == 3
        assert statuses.missing(b"NATS/1.0 409 Consumer Deleted\r\n\r\n") is None


class TestComplaints:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('Permissions Violation for Publish to "Foo.Bar"', ("publish", "Foo.Bar", None)),
            ('Permissions Violation for Publish with Reply of "_INBOX.X"', ("publish", "_INBOX.X", None)),
            ('Permissions Violation for Subscription to "Foo.>" using queue "Q"', ("subscribe", "Foo.>", "Q")),
            ('Permissions Violation for Subscription to "Foo" (sid "3")', ("subscribe", "Foo", None)),
            (r'Permissions Violation for Publish to "a.\"q\\.b" (x "y")', ("publish", 'a."q\\.b', None)),
            (r'Permissions Violation for Publish to "a.\q"', ("publish", r"a.\q", None)),
            ("Maximum Payload Violation", None),
        ],
    )
    def test_a_violation_keeps_its_case(self, text, expected):
        assert complaints.violation(text) == expected

    @pytest.mark.parametrize(
        "text", ["Authorization Violation", "User Authentication Expired", "account authentication expired"]
    )
    def test_a_refusal(self, text):
        assert complaints.is_refusal(text)

    @pytest.mark.parametrize("text", ["Stale Connection", "Authentication Timeout", "Maximum Payload Violation"])
    def test_anything_else_is_none(self, text):
        assert not complaints.is_refusal(text)


class TestErrors:
    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (10077, StreamFull),
            (10047, StorageFull),
            (10071, SequenceConflict),
            (10164, SequenceConflict),
            (10060, SequenceConflict),
            (10059, StreamNotFound),
            (10014, ConsumerNotFound),
            (10158, ApiError),
            (10052, ApiError),
        ],
    )
    def test_numbers_become_classes(self, number, kind):
        error = errors.from_api({"code": 400, "err_code": number, "description": "words"}, stream="S", subject="s")
        assert type(error) is kind
        assert "words" in str(error)
        assert (error.stream, error.subject) == ("S", "s")

    def test_an_id_in_process_may_be_tried_again(self):
        assert errors.from_api({"code": 409, "err_code": 10158, "description": ""}).transient
        assert not errors.from_api({"code": 400, "err_code": 10052, "description": ""}).transient

    def test_too_large_tells_the_size(self):
        error = errors.from_api({"code": 400, "err_code": 10054, "description": ""}, size=7)
        assert isinstance(error, PayloadTooLarge)
        assert error.size == 7


class TestAddresses:
    def test_credentials_leave_the_url(self):
        address = parse(ConnectOptions(url="nats://me:p%40ss@one:1,two"))
        assert address.urls == ("nats://one:1", "nats://two:4222")
        assert (address.user, address.password, address.token, address.tls) == ("me", "p@ss", None, False)
        assert "p@ss" not in f"{address!r}{address}"

    def test_a_token(self):
        assert parse(ConnectOptions(url="tls://t0ken@one")).token == "t0ken"
        assert parse(ConnectOptions(url="tls://t0ken@one")).tls

    def test_options_win_over_the_url(self):
        address = parse(ConnectOptions(url="nats://a:b@one", user="c", password="d"))
        assert (address.user, address.password) == ("c", "d")
        assert parse(ConnectOptions(url="nats://one", user="c", password="")).password == ""

    def test_websockets_and_addresses(self):
        assert parse(ConnectOptions(url="wss://host/path")).urls == ("wss://host/path",)
        assert parse(ConnectOptions(url="nats://[::1]:4333")).urls == ("nats://[::1]:4333",)

    @pytest.mark.parametrize(
        "url",
        ["nats://", "nats://one:port", "nats://one:70000", "nats://one,ws://two", "", "nats:/x", "nats://a/x?tls=1"],
    )
    def test_what_is_none(self, url):
        with pytest.raises(InvalidOption):
            parse(ConnectOptions(url=url))

    @pytest.mark.parametrize(
        ("url", "told"), [("nats://a/x?tls=1", r"'/x\?tls=1' after the host"), ("nats://a,memory://", "memory://")]
    )
    def test_what_means_nothing_is_named(self, url, told):
        with pytest.raises(InvalidOption, match=told):
            parse(ConnectOptions(url=url))

    def test_a_host_may_be_called_like_a_scheme(self):
        assert parse(ConnectOptions(url="nats:4333,nats://b/")).urls == ("nats://nats:4333", "nats://b:4222")

    def test_what_follows_a_slash_may_be_half_a_password(self):
        with pytest.raises(InvalidOption) as caught:
            parse(ConnectOptions(url="nats://me:1/secret,x@one"))
        assert "secret" not in repr(caught.value)

    @pytest.mark.parametrize("url", ["nats://me:secret@one:port", "nats://me:secret,x@one", "nats://me:secret@[::1"])
    @pytest.mark.parametrize("mark", ["", "/x", "#x", "?x"])
    def test_what_is_malformed_does_not_tell_the_password(self, url, mark):
        with pytest.raises(InvalidOption) as caught:
            parse(ConnectOptions(url=url.replace("secret", f"secret{mark}")))
        assert "secret" not in repr(caught.value)
