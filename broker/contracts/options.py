"""Settings that live long: streams, consumers, connections. Frozen, and checked when they are made.

Times are seconds as ``float``; ``None`` means unlimited.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from broker.contracts.checks import check_flags, check_kind, in_range, one_of
from broker.contracts.consumer_options import ConsumerOptions, Ensure, Replay, Start, check_ensure, check_start
from broker.contracts.errors import InvalidOption, InvalidSubject
from broker.contracts.failure import OnErrors, check_on_error
from broker.contracts.stream_options import StreamOptions
from broker.contracts.subjects import publish_subject

if TYPE_CHECKING:
    import ssl

__all__ = [
    "ConnectOptions",
    "ConsumeOptions",
    "ConsumerOptions",
    "Ensure",
    "LinkChoice",
    "Overflow",
    "Replay",
    "Start",
    "StreamOptions",
    "check_ensure",
    "check_start",
    "in_range",
    "one_of",
]

Overflow = Literal["drop_oldest", "latest", "drop_newest"]

LinkChoice = Literal["wire", "nats-py"]

BATCH_TIMEOUT: Final = 1.0
PAUSE_FOR: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeOptions:
    """How ``consume`` works through a consumer; everything here is the library's own policy.

    Attributes:
        concurrency: handlers (``async def``) running at once in this process. A plain function runs inline, one at a
            time.
        max_deliver: attempts a message gets before it is dead-lettered.
        backoff: seconds before attempt 2, 3, ...; the last one repeats. Each is lengthened by up to 10 % at random so
            that a burst does not return as a burst.
        dead_letter: keep what gave up in the dead letters; ``False`` terminates it without a copy.
        auto_extend: prolong the ack wait while a message is in hand, however long its handler takes.
        on_error: what becomes of a message by the exception its handler raised (see ``OnError``); the most specific
            class wins, and what is not named is retried.
        pause_for: seconds a ``"pause"`` lasts; refused where nothing pauses.
        batch_size: hand over lists of up to so many messages; ``None`` hands over one message at a time.
        batch_timeout: seconds after its first message within which a batch that is not full is handed over; refused
            without ``batch_size``.
        rate: messages per second at most; after a quiet while those of 100 ms may come at once.
        byte_rate: bytes of bodies per second at most, likewise.
        max_bytes: bytes on their way to this process at most; a single larger message comes alone.
        reschedule_after: seconds; what is to wait for so long or longer before its next attempt waits in a schedule and
            takes no place among the unsettled ones. ``None``: everything keeps its place.
        once: an inbox says of a message that has used up its attempts whether one of them was applied.
    """

    concurrency: int = 16
    max_deliver: int = 5
    backoff: Sequence[float] = (1.0, 5.0, 30.0, 120.0)
    dead_letter: bool = True
    auto_extend: bool = True
    on_error: OnErrors = field(default_factory=dict)
    pause_for: float = PAUSE_FOR
    batch_size: int | None = None
    batch_timeout: float = BATCH_TIMEOUT
    rate: float | None = None
    byte_rate: float | None = None
    max_bytes: int | None = None
    reschedule_after: float | None = None
    once: bool = False

    def __post_init__(self) -> None:
        in_range("concurrency", self.concurrency, 1, 100_000, whole=True)
        in_range("max_deliver", self.max_deliver, 1, whole=True)
        check_flags(self, ("dead_letter", "auto_extend"))
        if isinstance(self.backoff, str | bytes | bytearray) or not isinstance(self.backoff, Sequence):
            raise InvalidOption(f"backoff={self.backoff!r}: must be a sequence of seconds", option="backoff")
        for seconds in self.backoff:
            in_range("backoff", seconds, 0)
        object.__setattr__(self, "backoff", tuple(self.backoff))
        check_on_error(self.on_error)
        object.__setattr__(self, "on_error", dict(self.on_error))
        in_range("pause_for", self.pause_for, 0.05)
        if self.batch_size is not None:
            in_range("batch_size", self.batch_size, 1, 1_000_000, whole=True)
        in_range("batch_timeout", self.batch_timeout, 0.001)
        for option in ("rate", "byte_rate"):
            if getattr(self, option) is not None:
                in_range(option, getattr(self, option), 0.001, 1e12)
        if self.max_bytes is not None:
            in_range("max_bytes", self.max_bytes, 1, whole=True)
        if self.reschedule_after is not None:
            in_range("reschedule_after", self.reschedule_after, 0.1)
        self._check_company()

    def _check_company(self) -> None:
        """Refuse what contradicts, and what would have no effect."""
        decisions = set(self.on_error.values())
        if self.batch_size is None and self.batch_timeout != BATCH_TIMEOUT:
            raise InvalidOption("batch_timeout needs batch_size: no batch is gathered", option="batch_timeout")
        if "pause" not in decisions and self.pause_for != PAUSE_FOR:
            raise InvalidOption("pause_for needs on_error={...: 'pause'}: nothing pauses", option="pause_for")
        if "dead_letter" in decisions and not self.dead_letter:
            raise InvalidOption("on_error: 'dead_letter' contradicts dead_letter=False", option="on_error")
        if "pause" in decisions and not self.auto_extend:
            told = "on_error: 'pause' keeps the message in hand, which auto_extend=False does not allow"
            raise InvalidOption(told, option="on_error")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Where and as whom to connect. Secrets stay out of its ``repr``.

    Attributes:
        url: one URL or several separated by commas, scheme first.
        name: shown by the server next to the connection.
        tls: context for TLS connections; ``None`` uses the system's for ``tls://`` and ``wss://``.
        inbox_prefix: first tokens of reply subjects; one per role keeps others from reading the replies.
        connect_timeout: seconds for the first connection, all attempts together.
        outbound_limit: bytes of core messages held unsent at most; beyond it the oldest are dropped and counted.
        link: what speaks NATS: our own wire, or nats-py, which alone reaches ``ws://`` and ``wss://`` servers and is
            taken for them; ``None`` chooses so.
        tls_first: shake hands before the server's first word, for servers with ``handshake_first``.
        echo: whether what this connection publishes comes back to its own subscriptions.
    """

    url: str = field(repr=False)
    name: str | None = None
    tls: ssl.SSLContext | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: str | None = field(default=None, repr=False)
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 5.0
    outbound_limit: int = 8 << 20
    link: LinkChoice | None = None
    tls_first: bool = False
    echo: bool = True

    def __post_init__(self) -> None:
        if self.link is not None:
            one_of("link", self.link, ("wire", "nats-py"))
        if not isinstance(self.url, str):
            raise InvalidOption("url: must be text; several servers are separated by commas", option="url")
        in_range("connect_timeout", self.connect_timeout, 0.001)
        in_range("outbound_limit", self.outbound_limit, 1, whole=True)
        for option in ("tls_first", "echo"):
            check_kind(option, getattr(self, option), bool, "True or False", shown=True)
        if self.name is not None:
            check_kind("name", self.name, str, "text", shown=True)
        for option in ("user", "password", "token"):
            if getattr(self, option) is not None:
                check_kind(option, getattr(self, option), str, "text", shown=False)
        if self.creds is not None:
            check_kind("creds", self.creds, (str, os.PathLike), "the path of a credentials file", shown=False)
            object.__setattr__(self, "creds", os.fsdecode(self.creds))
        if self.tls is not None and not _is_tls_context(self.tls):
            raise InvalidOption(f"tls={self.tls!r}: must be an ssl.SSLContext or None", option="tls")
        self._check_identity()
        try:
            publish_subject(self.inbox_prefix)
        except InvalidSubject as exc:
            told = f"inbox_prefix={self.inbox_prefix!r}: must be the first tokens of a subject: {exc}"
            raise InvalidOption(told, option="inbox_prefix") from None

    def _check_identity(self) -> None:
        """One way to say who we are: whoever names two would not know as whom they are connected."""
        if self.user is not None and self.password is None:
            raise InvalidOption("user= needs password= (which may be empty)", option="password")
        if self.token is not None and self.user is not None:
            raise InvalidOption("token= and user= contradict: give one of them", option="token")
        if self.creds is not None and (self.user is not None or self.token is not None):
            raise InvalidOption("creds= stands instead of user= and token=: give one of them", option="creds")


def _is_tls_context(value: object) -> bool:
    """Whether it is a TLS context. Nobody has one without having imported ssl, so we need not."""
    module = sys.modules.get("ssl")
    return module is not None and isinstance(value, module.SSLContext)
