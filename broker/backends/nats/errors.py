"""The border: what a JetStream server answers, as our errors. Numbers are nats-server's (server/errors.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats.refusals import Refusal
from broker.backends.nats.refusals_consumers import CONSUMERS
from broker.backends.nats.refusals_publishing import PUBLISHING
from broker.backends.nats.refusals_streams import STREAMS
from broker.contracts.errors import ApiError, BatchRejected, FeatureDisabled, PayloadTooLarge

if TYPE_CHECKING:
    from broker.contracts.errors import BrokerError

CLUSTER_NOT_AVAILABLE: Final = 10008
CONSUMER_NAME_EXISTS: Final = 10013
NO_MESSAGE_FOUND: Final = 10037
SEQUENCE_NOT_FOUND: Final = 10043
STREAM_MESSAGE_DELETE_FAILED: Final = 10057
STREAM_NAME_EXISTS: Final = 10058
STREAM_SUBJECT_OVERLAP: Final = 10065
STORE_FAILED: Final = 10077
ROLLUP_FAILED: Final = 10111
CONSUMER_ALREADY_EXISTS: Final = 10148

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
        refused = _typed(known, f"{about}{words} (err_code {number})", subject, stream)
    refused.code, refused.err_code, refused.advice = status, number, known.advice
    if known.advice:
        refused.add_note(known.advice)
    return refused


def _typed(known: Refusal, told: str, subject: str | None, stream: str | None) -> BrokerError:
    if known.kind is FeatureDisabled:
        return FeatureDisabled(f"{told}: {known.advice}", option=known.about, subject=subject, stream=stream)
    if known.kind is BatchRejected:
        return BatchRejected(told, reason=known.about, subject=subject, stream=stream)
    return known.kind(told, subject=subject, stream=stream)
