"""The border: what a JetStream server answers, as our errors. Numbers are nats-server's (server/errors.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats.refusals import Refusal
from broker.backends.nats.refusals_consumers import CONSUMERS
from broker.backends.nats.refusals_publishing import PUBLISHING
from broker.backends.nats.refusals_streams import STREAMS
from broker.contracts.errors import ApiError, PayloadTooLarge

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

REFUSALS: Final = {
    each.err_code: each for each in sorted((*STREAMS, *CONSUMERS, *PUBLISHING), key=lambda refusal: refusal.err_code)
}
"""Every number that is known, in order."""
_UNKNOWN: Final = Refusal(0, 0, ApiError, "", "")


def err_code(error: dict[str, Any]) -> int:
    """The server's number for it, 0 when it sent none."""
    return int(error.get("err_code") or 0)


def from_api(
    error: dict[str, Any], *, subject: str | None = None, stream: str | None = None, size: int = 0, limit: int = 0
) -> BrokerError:
    """The error in an API reply or a publish acknowledgement, typed. ``size`` is that of the message, if any."""
    number, status = err_code(error), int(error.get("code") or 0)
    words = str(error.get("description") or "")
    known = REFUSALS.get(number, _UNKNOWN)
    refused: BrokerError
    if known.kind is PayloadTooLarge or (number == STORE_FAILED and "message size" in words):
        refused = PayloadTooLarge(size=size, limit=limit, subject=subject)
    elif known.kind is ApiError:
        transient = known.transient
        refused = ApiError(words, code=status, err_code=number, transient=transient, subject=subject, stream=stream)
    else:
        about = f"stream {stream!r}: " if stream else ""
        refused = known.kind(f"{about}{words} (err_code {number})", subject=subject, stream=stream)
    refused.code, refused.err_code, refused.advice = status, number, known.advice
    return refused
