"""Client frames of the NATS protocol as pure functions: text in, whole frames out, headers both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.contracts.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Iterable

CRLF: Final = b"\r\n"
PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
VERSION: Final = b"NATS/1.0"
KEPT_SIZES: Final = 4096
SIZES: Final = tuple(b"%d\r\n" % size for size in range(KEPT_SIZES))
"""The end of a PUB line for small bodies."""
_STATUS: Final = slice(len(VERSION) + 1, len(VERSION) + 4)


def pub(head: bytes, data: bytes) -> bytes:
    """A PUB frame. ``head`` comes from ``pub_head``: callers keep it, since it is the same for every message."""
    size = len(data)
    if size < KEPT_SIZES:
        return head + SIZES[size] + data + CRLF
    return b"%b%d\r\n%b\r\n" % (head, size, data)


def pub_head(subject: bytes, reply: bytes = b"") -> bytes:
    """The part of a PUB frame before its size."""
    return b"PUB %b %b " % (subject, reply) if reply else b"PUB %b " % subject


def hpub(subject: bytes, reply: bytes, block: bytes, data: bytes) -> bytes:
    """An HPUB frame. ``block`` comes from ``header_block``."""
    head = len(block)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, head, head + len(data), block, data)


def sub(subject: bytes, queue: str | None, sid: int) -> bytes:
    """A SUB frame."""
    return b"SUB %b %b %d\r\n" % (subject, queue.encode(), sid) if queue else b"SUB %b %d\r\n" % (subject, sid)


def unsub(sid: int) -> bytes:
    """An UNSUB frame."""
    return b"UNSUB %d\r\n" % sid


def header_block(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The header part of an HPUB frame, its closing empty line included."""
    lines = "\r\n".join([f"{name}: {value}" for name, value in pairs])
    return f"NATS/1.0\r\n{lines}\r\n\r\n".encode()


def parse_pairs(block: bytes) -> tuple[tuple[str, str], ...]:
    """The (name, value) pairs of a header part, repeated names kept, blanks around values dropped."""
    _, _, lines = block.partition(CRLF)
    pairs = []
    for line in lines.decode("utf-8", "replace").split("\r\n"):
        name, separator, value = line.partition(":")
        if separator and name:
            pairs.append((name, value.strip(" \t")))
    return tuple(pairs)


def parse_status(block: bytes) -> tuple[int, str]:
    """The status and its words when the header part carries one, otherwise ``(0, "")``."""
    if block[len(VERSION) : len(VERSION) + 1] != b" ":
        return 0, ""
    line, _, _ = block.partition(CRLF)
    code = line[_STATUS]
    return (int(code) if code.isdigit() else 0), line[_STATUS.stop :].decode("utf-8", "replace").strip()


class WireHeaders(Headers):
    """Headers as they arrived; pairs are parsed when somebody looks, since most messages are settled unread."""

    __slots__ = ("_block",)

    def __init__(self, block: bytes) -> None:
        self._block = block

    def __getattr__(self, name: str) -> object:
        """What was not looked at before."""
        if name == "_pairs":
            self._pairs = parse_pairs(self._block)
        elif name in {"status", "status_text"}:
            self.status, self.status_text = parse_status(self._block)
        else:
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[type[WireHeaders], tuple[bytes]]:
        return WireHeaders, (self._block,)
