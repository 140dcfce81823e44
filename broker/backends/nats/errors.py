"""The border: what a JetStream server answers, as our errors. Numbers are nats-server's (server/errors.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.contracts.errors import (
    ApiError,
    ConsumerNotFound,
    PayloadTooLarge,
    SequenceConflict,
    StreamError,
    StreamFull,
    StreamNotFound,
)

if TYPE_CHECKING:
    from broker.contracts.errors import BrokerError

ACCOUNT_RESOURCES_EXCEEDED: Final = 10002
CLUSTER_NOT_AVAILABLE: Final = 10008
CLUSTER_NOT_LEADER: Final = 10009
CONSUMER_NAME_EXISTS: Final = 10013
CONSUMER_NOT_FOUND: Final = 10014
INSUFFICIENT_RESOURCES: Final = 10023
MEMORY_RESOURCES_EXCEEDED: Final = 10028
NO_MESSAGE_FOUND: Final = 10037
SEQUENCE_NOT_FOUND: Final = 10043
STORAGE_RESOURCES_EXCEEDED: Final = 10047
MESSAGE_TOO_LARGE: Final = 10054
STREAM_MESSAGE_DELETE_FAILED: Final = 10057
STREAM_NAME_EXISTS: Final = 10058
STREAM_NOT_FOUND: Final = 10059
STREAM_NOT_MATCH: Final = 10060
STREAM_SUBJECT_OVERLAP: Final = 10065
SEQUENCE_NOT_MATCH: Final = 10063
WRONG_LAST_MESSAGE_ID: Final = 10070
WRONG_LAST_SEQUENCE: Final = 10071
STORE_FAILED: Final = 10077
HEADER_TOO_LARGE: Final = 10097
STREAM_OFFLINE: Final = 10118
CONSUMER_OFFLINE: Final = 10119
CONSUMER_ALREADY_EXISTS: Final = 10148
CONSUMER_DOES_NOT_EXIST: Final = 10149
MESSAGE_ID_IN_PROCESS: Final = 10158
LAST_SEQUENCE_NOT_READY: Final = 10163
WRONG_LAST_SEQUENCE_CONSTANT: Final = 10164
TOO_MANY_REQUESTS: Final = 10167
ATOMIC_TOO_MANY_IN_FLIGHT: Final = 10210
BATCH_TOO_MANY_IN_FLIGHT: Final = 10211

_CLASSES: Final[dict[int, type[StreamError]]] = {
    ACCOUNT_RESOURCES_EXCEEDED: StreamFull,
    CONSUMER_NOT_FOUND: ConsumerNotFound,
    INSUFFICIENT_RESOURCES: StreamFull,
    MEMORY_RESOURCES_EXCEEDED: StreamFull,
    STORAGE_RESOURCES_EXCEEDED: StreamFull,
    STREAM_NOT_FOUND: StreamNotFound,
    STREAM_NOT_MATCH: SequenceConflict,
    SEQUENCE_NOT_MATCH: SequenceConflict,
    WRONG_LAST_MESSAGE_ID: SequenceConflict,
    WRONG_LAST_SEQUENCE: SequenceConflict,
    STORE_FAILED: StreamFull,
    CONSUMER_DOES_NOT_EXIST: ConsumerNotFound,
    WRONG_LAST_SEQUENCE_CONSTANT: SequenceConflict,
}
_TRANSIENT: Final = frozenset(
    {
        CLUSTER_NOT_AVAILABLE,
        CLUSTER_NOT_LEADER,
        STREAM_OFFLINE,
        CONSUMER_OFFLINE,
        MESSAGE_ID_IN_PROCESS,
        LAST_SEQUENCE_NOT_READY,
        TOO_MANY_REQUESTS,
        ATOMIC_TOO_MANY_IN_FLIGHT,
        BATCH_TOO_MANY_IN_FLIGHT,
    }
)
"""Numbers after which the same call may succeed a moment later."""
_TOO_LARGE: Final = frozenset({MESSAGE_TOO_LARGE, HEADER_TOO_LARGE})


def err_code(error: dict[str, Any]) -> int:
    """The server's number for it, 0 when it sent none."""
    return int(error.get("err_code") or 0)


def from_api(
    error: dict[str, Any], *, subject: str | None = None, stream: str | None = None, size: int = 0, limit: int = 0
) -> BrokerError:
    """The error in an API reply or a publish acknowledgement, typed. ``size`` is that of the message, if any."""
    number = err_code(error)
    words = str(error.get("description") or "")
    if number in _TOO_LARGE or (number == STORE_FAILED and "message size" in words):
        return PayloadTooLarge(size=size, limit=limit, subject=subject)
    kind = _CLASSES.get(number)
    if kind is not None:
        about = f"stream {stream!r}: " if stream else ""
        return kind(f"{about}{words} (err_code {number})", subject=subject, stream=stream)
    return ApiError(
        words,
        code=int(error.get("code") or 0),
        err_code=number,
        transient=number in _TRANSIENT,
        subject=subject,
        stream=stream,
    )
