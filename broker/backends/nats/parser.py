"""The server's byte stream, cut into messages and control lines. No I/O: bytes in, calls out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.backends.nats.contract import Receive

_log: Final = logging.getLogger("broker.nats")

MAX_LINE: Final = 1 << 20
"""A control line longer than this is not NATS; INFO of a large cluster stays far below."""
_DIGITS: Final = 9
"""Of a size: below 1 GB, so that no line alone makes us wait for more; a server takes 64 MiB unless told otherwise."""
_LF: Final = b"\n"
_M: Final = ord("M")
_MESSAGES: Final = frozenset({_M, ord("H")})
"""The first letter decides: MSG and HMSG are messages, anything else is a control line."""
_MSG: Final = 4
"""Fields of MSG without a reply."""
_HMSG: Final = 5
"""Fields of HMSG without a reply."""
_SIZES: Final = {b"%d" % size: size for size in range(4096)}


class ProtocolViolation(Exception):
    """The bytes are not what a NATS server sends; the connection cannot be trusted any more."""


class Parser:
    """Feed it what arrived: messages go to their receivers at once, other lines are handed back in order.

    Args:
        receivers: who receives, by subscription number; a message for nobody is dropped. A receiver must not raise;
            one that does is logged and loses that message only.
    """

    __slots__ = ("_missing", "_parts", "_receivers")

    def __init__(self, receivers: Mapping[bytes, Receive]) -> None:
        self._receivers = receivers
        self._parts: list[bytes] = []
        self._missing = 0

    def reset(self) -> None:
        """Forget a half message: what comes next belongs to a new connection."""
        self._parts = []
        self._missing = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take bytes in; returns the control lines (INFO, PING, PONG, +OK, -ERR) seen among them, without CRLF.

        Raises:
            ProtocolViolation: the stream is not NATS.
        """
        if self._parts:
            self._parts.append(chunk)
            self._missing -= len(chunk)
            if self._missing > 0:
                return []
            chunk = b"".join(self._parts)
            self._parts = []
        self._missing = 0
        lines: list[bytes] = []
        rest = self._scan(chunk, lines)
        if rest < len(chunk):
            self._parts = [chunk[rest:] if rest else chunk]
        return lines

    def _scan(self, chunk: bytes, lines: list[bytes]) -> int:  # noqa: C901, PLR0912 - the hot loop: a call costs more than a branch
        """Handle every whole message or line; returns where the first incomplete one begins."""
        position, end = 0, len(chunk)
        find, receiver, known = chunk.find, self._receivers.get, _SIZES.get
        while position < end:
            # One byte is found several times faster than two; neither of them can be inside a line.
            stop = find(_LF, position)
            if stop < 0:
                if end - position > MAX_LINE:
                    raise ProtocolViolation("a control line without end")
                return position
            first = chunk[position]
            if first not in _MESSAGES:
                lines.append(chunk[position : stop - 1])
                position = stop + 1
                continue
            words = chunk[position : stop - 1].split(b" ")
            size = known(words[-1])
            if size is None:
                size = _number(words[-1])
            start = stop + 1
            stop = start + size
            position, begun = stop + 2, position
            if position > end:
                self._missing = position - end
                return begun
            fields = len(words)
            if fields == _MSG and first == _M:
                _, subject, sid, _ = words
                reply, body, block = b"", chunk[start:stop], None
            elif fields == _HMSG + 1 and words[0] == b"HMSG":
                _, subject, sid, reply, head, _ = words
                cut = known(head)
                cut = start + (_number(head) if cut is None else cut)
                if cut > stop:
                    raise ProtocolViolation("headers longer than their message")
                body, block = chunk[cut:stop], chunk[start:cut]
            else:
                subject, sid, reply, body, block = _parted(words, chunk, start, stop)
            receive = receiver(sid)
            if receive is None:
                continue
            try:
                receive(subject, reply, body, block)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001 - one message costs no connection; logged in full
                _log.exception("receiving on %s failed", subject.decode("utf-8", "replace"))
        return position


def _parted(words: list[bytes], chunk: bytes, start: int, stop: int) -> tuple[bytes, bytes, bytes, bytes, bytes | None]:
    """The rarer kinds: a reply without headers, headers without a reply. Subject, number, reply, body, headers."""
    fields = len(words)
    if words[0] == b"MSG" and fields == _MSG + 1:
        _, subject, sid, reply, _ = words
        return subject, sid, reply, chunk[start:stop], None
    if words[0] == b"HMSG" and fields == _HMSG:
        _, subject, sid, head, _ = words
        body = start + _number(head)
        if body > stop:
            raise ProtocolViolation("headers longer than their message")
        return subject, sid, b"", chunk[body:stop], chunk[start:body]
    raise ProtocolViolation("a malformed message line")


def _number(word: bytes) -> int:
    if not word.isdigit() or len(word) > _DIGITS:
        raise ProtocolViolation("a malformed message line")
    return int(word)
