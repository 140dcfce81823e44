"""Every error the library raises, sorted by what the caller can *know*.

BrokerError
├── ConnectError                      nothing was sent, or the connection is not there
│   ├── Unauthorized                  the server refused these credentials; retrying them is pointless
│   ├── ConnectionLost                the connection broke; what was in flight is unknown unless said otherwise
│   └── BrokerClosed                  this broker was closed or is draining
├── RequestError
│   ├── NoResponders                  nobody listens: the request did not run
│   ├── RequestTimeout                no answer in time: the request may have run          (TimeoutError)
│   └── RemoteError                   the responder raised; it ran
├── StreamError
│   ├── NoStream                      no stream captures the subject: nothing was stored
│   ├── StreamFull                    the stream's limit is reached and it refuses new messages
│   │   └── StorageFull               the server or the account has no room: for no stream of that kind
│   ├── SequenceConflict              an expectation did not hold: nothing was stored
│   │   └── KeyExists                 the key that was to be created has a value
│   ├── EnqueueUnknown                stored or not is unknown: enqueue again with the same key  (TimeoutError)
│   ├── EnqueueManyError              some of many failed: receipts and errors by index
│   ├── BatchRejected                 an atomic batch was refused as a whole: nothing was stored
│   ├── FeatureDisabled               the stream was not declared with what the verb needs
│   ├── ConsumerGone                  the consumer was deleted and may not be made again
│   ├── ConsumerNotFound              no consumer of that name on the stream
│   ├── StreamNotFound                no stream of that name
│   │   └── BucketNotFound            no bucket of that name, or it was deleted meanwhile
│   ├── WriteUnknown                  a key was written or not: read it before writing again  (TimeoutError)
│   ├── ConfigDrift                   what exists differs from what was asked, field by field
│   ├── JetStreamNotEnabled           the server, or this account on it, has no streams
│   ├── LimitsExceeded                the account, server or stream allows no more of these, or no larger
│   ├── AlreadySettled                the message was acked, nak'ed or terminated before
│   ├── AckUnknown                    a confirmed ack got no answer: it may be redelivered  (TimeoutError)
│   └── ApiError                      any other server error, numbers kept as .code and .err_code
├── CodecError
│   ├── EncodeError                   the codec cannot turn this body into bytes
│   └── DecodeError                   the bytes are not what was asked for
│       └── MalformedEvent            they are not the event that a contract declares
├── PermissionDenied                  the server forbids this verb on this subject
├── InvalidSubject                    not a subject, or not one for this verb               (ValueError)
├── InvalidKey                        not an idempotency key, or not a bucket's key         (ValueError)
├── InvalidHeader                     not a header, or a reserved one                       (ValueError)
├── InvalidOption                     an option out of its range, or two that contradict    (ValueError)
├── PayloadTooLarge                   body and headers exceed what the server takes         (ValueError)
├── Unsupported                       this backend cannot do that
└── QoSViolation                      a contract's guarantee would not hold here

``embedded://`` may also raise ``broker.server``'s ``ServerError`` (a BrokerError: our own server did not start) and its
kind ``InUse`` (its port or store is taken). What only keys know of is in ``key_errors.py``, what only contracts do in
``event_errors.py``.

Each carries what it knows (subject, stream, code ...) as attributes. The library below never leaks its own exceptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.contracts.envelopes import Receipt


class BrokerError(Exception):
    """Root of everything the library raises.

    Attributes:
        subject: the subject the failing call was about, when there was one.
        stream: the stream it was about, when known.
        code: HTTP-like status of a server's refusal; 0 when no server refused.
        err_code: the server's own error number (docs/errors.md lists them); 0 when it sent none.
        advice: one sentence on what to do about that number; empty when it is not in the list.
    """

    code: int = 0
    err_code: int = 0
    advice: str = ""

    def __init__(self, message: str = "", *, subject: str | None = None, stream: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n", 1)[0])
        self.subject = subject
        self.stream = stream


class ConnectError(BrokerError):
    """No server could be reached."""


class Unauthorized(ConnectError):
    """The server refused the credentials."""


class ConnectionLost(ConnectError):
    """The connection to the server is lost; a call in flight may or may not have happened."""


class BrokerClosed(ConnectError):
    """The broker is closed or draining and takes no new work."""


class RequestError(BrokerError):
    """A request got no useful reply."""


class NoResponders(RequestError):
    """Nobody listens on the subject; the request did not run."""


class RequestTimeout(RequestError, TimeoutError):
    """No reply in time; the request may have run."""


class RemoteError(RequestError):
    """The responder raised.

    Attributes:
        kind: the class name of the exception on the other side; the number in the error reply of another client's
            service.
    """

    def __init__(self, message: str = "", *, kind: str = "", subject: str | None = None) -> None:
        super().__init__(message, subject=subject)
        self.kind = kind


class StreamError(BrokerError):
    """A stored message, a stream or a consumer is not as the call needs it."""


class NoStream(StreamError):
    """No stream captures the subject; nothing was stored. Declare a stream whose subjects match it."""


class StreamFull(StreamError):
    """The stream has reached a limit and refuses new messages; nothing was stored."""


class StorageFull(StreamFull):
    """The server or the account has no room left for what streams store; nothing was stored."""


class SequenceConflict(StreamError):
    """An expectation on the stream's last message did not hold; nothing was stored.

    Attributes:
        index: of the entry of an atomic batch whose expectation it was, when that is known.
    """

    index: int | None = None


class EnqueueUnknown(StreamError, TimeoutError):
    """No confirmation before the deadline: the message may be stored. Enqueue again with the same key, at any time.

    Attributes:
        idempotency_key: the caller's key, or the generated id when none was given. Passing either as
            ``idempotency_key=`` to the same subject makes the repeat safe within the stream's duplicate window.
        idempotency_keys: the same for every entry of an atomic batch, in the order given; empty otherwise.
    """

    def __init__(
        self,
        message: str = "",
        *,
        idempotency_key: str | None = None,
        idempotency_keys: Sequence[str] = (),
        subject: str | None = None,
    ) -> None:
        super().__init__(message, subject=subject)
        self.idempotency_key = idempotency_key
        self.idempotency_keys = tuple(idempotency_keys)


class EnqueueManyError(StreamError):
    """Some entries of an ``enqueue_many`` failed; every entry was tried.

    Attributes:
        receipts: index in the order given -> receipt, of the entries that are stored.
        errors: index in the order given -> error, of the others.
    """

    def __init__(self, receipts: Mapping[int, Receipt], errors: Mapping[int, BrokerError]) -> None:
        first = min(errors)
        total = len(errors) + len(receipts)
        super().__init__(f"{len(errors)} of {total} entries failed; the first is entry {first}: {errors[first]}")
        self.receipts = dict(receipts)
        self.errors = dict(errors)


class BatchRejected(StreamError):
    """The server refused an atomic batch as a whole; nothing of it was stored.

    Attributes:
        reason: ``"duplicate"``: an entry's key was stored before; ``"disabled"``: the stream takes no batches;
            ``"too_large"``: more entries than the server takes; ``"streams"``: the entries belong to several streams;
            ``"incomplete"``: the server has not received all of it; ``"header"``: a header that no batch may carry.
        index: of the entry it is about, in the order given; ``None`` when it is about none in particular.
        stored: index -> receipt, of entries whose key was stored before (``"duplicate"``).
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        index: int | None = None,
        stored: Mapping[int, Receipt] | None = None,
        subject: str | None = None,
        stream: str | None = None,
    ) -> None:
        super().__init__(message, subject=subject, stream=stream)
        self.reason = reason
        self.index = index
        self.stored = dict(stored or {})


class FeatureDisabled(StreamError):
    """The stream was not declared with what the verb needs; nothing was stored.

    Attributes:
        option: the field of ``StreamOptions`` it needs.
    """

    def __init__(
        self, message: str = "", *, option: str = "", subject: str | None = None, stream: str | None = None
    ) -> None:
        super().__init__(message, subject=subject, stream=stream)
        self.option = option


class ConsumerGone(StreamError):
    """The consumer was deleted while in use and may not be re-created (``ensure="bind"``)."""


class ConsumerNotFound(StreamError):
    """The stream has no consumer of that name."""


class StreamNotFound(StreamError):
    """There is no stream of that name."""


class ConfigDrift(StreamError):
    """What exists on the server differs from what was asked.

    Attributes:
        name: of the stream or consumer that differs.
        differences: field -> (ours, the server's).
    """

    def __init__(
        self,
        name: str,
        differences: Mapping[str, tuple[object, object]],
        *,
        stream: str | None = None,
        hint: str = "; ensure='update' changes what may be changed, 'bind' takes it as it is",
    ) -> None:
        told = "; ".join(
            f"{field}: asked {ours!r}, server has {theirs!r}" for field, (ours, theirs) in differences.items()
        )
        what = f"stream {name}" if stream in {None, name} else f"consumer {name} of stream {stream}"
        super().__init__(f"{what} differs from what was asked: {told}{hint}", stream=stream)
        self.name = name
        self.differences = dict(differences)


class JetStreamNotEnabled(StreamError):
    """The server, or this account on it, has no JetStream: there are no streams, but core messages work."""


class LimitsExceeded(StreamError):
    """The account, the server or the stream does not allow another one of these, or one that large."""


class AlreadySettled(StreamError):
    """The message was settled before; the second outcome was not sent."""


class AckUnknown(StreamError, TimeoutError):
    """A confirmed ack got no answer; the message may be redelivered."""


class ApiError(StreamError):
    """The server refused a stream operation.

    Attributes:
        code: HTTP-like status (0 when the server sent none).
        err_code: the server's own error number (0 when it sent none).
        description: the server's words.
        transient: the same call may succeed a moment later (election, restart, overload).
    """

    def __init__(
        self,
        description: str = "",
        *,
        code: int = 0,
        err_code: int = 0,
        transient: bool = False,
        subject: str | None = None,
        stream: str | None = None,
    ) -> None:
        super().__init__(f"{description} (code {code}, err_code {err_code})", subject=subject, stream=stream)
        self.code = code
        self.err_code = err_code
        self.transient = transient
        self.description = description


class CodecError(BrokerError):
    """A body and its bytes do not fit each other."""


class EncodeError(CodecError):
    """The codec cannot encode this body."""


class DecodeError(CodecError):
    """The bytes do not decode to what was asked."""


class PermissionDenied(BrokerError):
    """The server forbids this verb on this subject.

    Attributes:
        verb: ``"publish"`` or ``"subscribe"``, as the server sees it.
        queue: the queue group of a refused subscription, when it named one.
    """

    def __init__(
        self, message: str = "", *, verb: str = "", subject: str | None = None, queue: str | None = None
    ) -> None:
        group = f" in the queue group {queue!r}" if queue else ""
        super().__init__(message or f"not permitted to {verb} on {subject!r}{group}", subject=subject)
        self.verb = verb
        self.queue = queue


class InvalidSubject(BrokerError, ValueError):
    """The subject is malformed or cannot be used with this verb."""


class InvalidKey(BrokerError, ValueError):
    """The key is malformed.

    An idempotency key has 1 to 255 bytes, no control characters, no blanks at its ends; a bucket's key consists of
    ``A-Z a-z 0-9 - _ / =`` and single dots between them.
    """


class InvalidHeader(BrokerError, ValueError):
    """A header is malformed or its name is reserved."""


class InvalidOption(BrokerError, ValueError):
    """An option is out of its range or contradicts another.

    Attributes:
        option: its name.
    """

    def __init__(self, message: str = "", *, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class PayloadTooLarge(BrokerError, ValueError):
    """Body and headers together are larger than the server accepts.

    Attributes:
        size: bytes of body and headers as they would go on the wire.
        limit: the server's or the stream's limit in bytes; 0 when the server did not tell.
    """

    def __init__(self, *, size: int, limit: int, subject: str | None = None, hint: str = "") -> None:
        most = f"the server's limit of {limit}" if limit else "what the server takes"
        super().__init__(f"{size} bytes of body and headers for {subject!r} exceed {most}{hint}", subject=subject)
        self.size = size
        self.limit = limit


class Unsupported(BrokerError):
    """The backend cannot do this."""
