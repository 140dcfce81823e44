"""What a server answers about what is missing or full, with its numbers."""

from __future__ import annotations

from typing import TypeVar

from broker.contracts.errors import ConsumerNotFound, StreamError, StreamFull, StreamNotFound

E = TypeVar("E", bound=StreamError)


def no_stream(name: str) -> StreamNotFound:
    """There is none of that name."""
    return _numbered(StreamNotFound(f"no stream {name!r}", stream=name), 404, 10059)


def no_consumer(name: str | None, stream: str) -> ConsumerNotFound:
    """The stream has none of that name."""
    return _numbered(ConsumerNotFound(f"no consumer {name!r} on stream {stream!r}", stream=stream), 404, 10014)


def full(limit: str, stream: str, subject: str | None = None) -> StreamFull:
    """The stream has all it may have, and refuses more."""
    return _numbered(StreamFull(f"maximum {limit} exceeded", subject=subject, stream=stream), 503, 10077)


def _numbered(error: E, code: int, err_code: int) -> E:
    error.code, error.err_code = code, err_code
    return error
