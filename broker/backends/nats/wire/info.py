"""INFO, the line in which a server says what it is."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from broker.backends.nats.parser import ProtocolViolation

_USUAL_PAYLOAD: Final = 1 << 20


class ServerInfo(NamedTuple):
    """What we use of it.

    Attributes:
        server_id: unlike any other server's; empty when it does not say.
        cluster: the cluster's name; empty when the server is alone.
        jetstream: whether it has JetStream.
        max_payload: bytes of headers and body it takes.
        headers: whether it knows headers, and with them "no responders".
        tls_required: whether nothing but TLS follows.
        tls_available: whether TLS may follow.
        tls_verify: whether it wants a certificate of ours.
        nonce: what a key has to sign; empty when no key is asked for.
        connect_urls: ``host:port`` of every server of the cluster.
        lame_duck: whether it is about to stop.
    """

    server_id: str
    cluster: str
    jetstream: bool
    max_payload: int
    headers: bool
    tls_required: bool
    tls_available: bool
    tls_verify: bool
    nonce: str
    connect_urls: tuple[str, ...]
    lame_duck: bool


def parse_info(text: bytes) -> ServerInfo:
    """What follows the word INFO.

    Raises:
        ProtocolViolation: it is not what a NATS server says.
    """
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise ProtocolViolation("INFO is not JSON") from exc
    if not isinstance(told, dict):
        raise ProtocolViolation("INFO is not an object")
    return ServerInfo(
        server_id=_typed(told, "server_id", ""),
        cluster=_typed(told, "cluster", ""),
        jetstream=_typed(told, "jetstream", False),
        max_payload=_typed(told, "max_payload", _USUAL_PAYLOAD),
        headers=_typed(told, "headers", False),
        tls_required=_typed(told, "tls_required", False),
        tls_available=_typed(told, "tls_available", False),
        tls_verify=_typed(told, "tls_verify", False),
        nonce=_typed(told, "nonce", ""),
        connect_urls=tuple(each for each in _typed(told, "connect_urls", []) if isinstance(each, str)),
        lame_duck=_typed(told, "ldm", False),
    )


def _typed(told: dict[str, Any], name: str, usual: Any) -> Any:
    value = told.get(name)
    if value is None:
        return usual
    if type(value) is not type(usual):
        raise ProtocolViolation(f"INFO with a strange {name}")
    return value
