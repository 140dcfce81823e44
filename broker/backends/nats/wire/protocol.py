"""What is said on one connection, without a socket: bytes in, events out, answers handed to ``say``."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from broker.backends.nats import frames
from broker.backends.nats.parser import MAX_LINE, Parser, ProtocolViolation
from broker.backends.nats.wire.info import ServerInfo, parse_info

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.backends.nats.contract import Receive

_PROTOCOL: Final = 1
"""The version in which a server tells of its cluster and of its end while we are connected."""


class Hearer(Protocol):
    """Who is told. Nothing here may raise."""

    @abstractmethod
    def on_info(self, info: ServerInfo) -> None:
        """The server said what it is: at first, and whenever that changes."""

    @abstractmethod
    def on_error(self, text: str) -> None:
        """The server said -ERR, in its own case."""


class Conversation:
    """One connection's, from INFO to the end.

    Messages go to ``receivers`` (see ``Parser``). Until ``talk`` nothing but INFO and an early -ERR is listened to:
    what else comes in the clear before TLS begins came from somebody in between.

    Attributes:
        info: what the server said last about itself; ``None`` before its first word.
        heard: set whenever something arrived; whoever watches clears it.
    """

    def __init__(self, receivers: Mapping[bytes, Receive], hearer: Hearer, say: Callable[[bytes], object]) -> None:
        self.info: ServerInfo | None = None
        self.heard = False
        self._feed = Parser(receivers).feed
        self._hearer = hearer
        self._say = say
        self._talking = False
        self._early = b""
        self._pongs: deque[Callable[[], object] | None] = deque()

    def receive(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            ProtocolViolation: this is no NATS server, or no longer.
        """
        self.heard = True
        if not self._talking:
            self._listen(data)
            return
        try:
            for line in self._feed(data):
                self._line(line)
        except ValueError as exc:
            raise ProtocolViolation("a malformed line") from exc

    def secure(self) -> None:
        """TLS begins now.

        Raises:
            ProtocolViolation: something came in the clear after INFO.
        """
        if self._early:
            raise ProtocolViolation("it spoke in the clear before TLS")

    def talk(self) -> None:
        """Everything is listened to from now on.

        Raises:
            ProtocolViolation: as ``receive``.
        """
        early, self._early, self._talking = self._early, b"", True
        if early:
            self.receive(early)

    def ping(self, answered: Callable[[], object] | None = None, *, after: bytes = b"") -> None:
        """Say PING; ``answered`` is called at its PONG, which comes when everything said before is processed.

        ``after`` is said with it in one piece: a second write to a server that hung up would hide why it did.
        """
        self._pongs.append(answered)
        self._say(after + frames.PING)

    def _listen(self, data: bytes) -> None:
        self._early += data
        if len(self._early) > MAX_LINE:
            raise ProtocolViolation("a greeting without end")
        while self.info is None or self._early.startswith(b"-ERR"):
            line, found, rest = self._early.partition(frames.CRLF)
            if not found:
                return
            self._early = rest
            if not line.startswith((b"INFO ", b"-ERR")):
                raise ProtocolViolation("the greeting is not that of a NATS server")
            self._line(line)

    def _line(self, line: bytes) -> None:
        if line == b"PONG":
            self._pong()
        elif line == b"PING":
            self._say(frames.PONG)
        elif line.startswith(b"-ERR"):
            self._hearer.on_error(line[4:].decode("utf-8", "replace").strip().strip("'"))
        elif line.startswith(b"INFO "):
            self.info = parse_info(line[5:])
            self._hearer.on_info(self.info)
        elif line and not line.startswith(b"+OK"):
            raise ProtocolViolation("a line that is not NATS")

    def _pong(self) -> None:
        answered = self._pongs.popleft() if self._pongs else None
        if answered is not None:
            answered()


def connect_frame(info: ServerInfo, identity: Mapping[str, str], *, name: str | None, echo: bool, tls: bool) -> bytes:
    """The CONNECT line. It holds secrets: never to be shown."""
    options: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "lang": "python-gamebroker",
        "version": _version(),
        "protocol": _PROTOCOL,
        "headers": info.headers,
        "no_responders": info.headers,
        "echo": echo,
        "tls_required": tls,
        **identity,
    }
    if name is not None:
        options["name"] = name
    return b"CONNECT %b\r\n" % orjson.dumps(options)


@cache
def _version() -> str:
    try:
        return metadata.version("gamebroker")
    except metadata.PackageNotFoundError:
        return "unknown"
