"""What handlers hold: ``Message`` from the core tier, ``StreamMessage`` on loan from a stream, settled once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast, final

from msgspec import Struct

from broker.codecs.json_codec import JsonCodec
from broker.contracts.checks import check_text
from broker.contracts.errors import AlreadySettled, InvalidSubject, PayloadTooLarge
from broker.contracts.headers import KEY, NO_HEADERS, ORDERING_KEY, Headers, HeadersLike
from broker.contracts.lanes import key_of_token
from broker.contracts.options import in_range

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.contracts.backend import CoreBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery, Envelope

T = TypeVar("T")

_JSON: Final = JsonCodec()
_NS_PER_SECOND: Final = 1_000_000_000


def encode_body(codec: Codec, body: Any) -> bytes:
    """Bytes as they are, anything else through the codec.

    Raises:
        EncodeError: the codec has no encoding for it.
    """
    if type(body) is bytes:
        return body
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    return codec.encode(body)


class Message(Struct, eq=False):
    """A message that arrived: where from, what, and how to answer.

    Attributes:
        envelope: the data below, as the backend gave it.
        answered: whether ``respond`` was called.
    """

    envelope: Envelope | Delivery
    _codec: Codec
    _backend: CoreBackend
    answered: bool = False
    _headers: Headers | None = None

    @property
    def subject(self) -> str:
        """The subject it was sent to."""
        return self.envelope.subject

    @property
    def data(self) -> bytes:
        """The body as it came over the wire."""
        return self.envelope.data

    @property
    def headers(self) -> Headers:
        """What the sender put in, in order, without the names reserved for the protocol."""
        if self._headers is None:
            raw = self.envelope.headers
            self._headers = raw.public() if raw else NO_HEADERS
        return self._headers

    @property
    def reply_to(self) -> str | None:
        """Where an answer goes; ``None`` when the sender waits for none."""
        return getattr(self.envelope, "reply_to", None)

    def json(self) -> Any:
        """The body as plain builtins, within the limits of the broker's ``JsonCodec``.

        Raises:
            DecodeError: it is not JSON.
        """
        codec = self._codec
        return (codec if isinstance(codec, JsonCodec) else _JSON).loads(self.envelope.data)

    def decode(self, into: type[T]) -> T:
        """The body as that type (dataclass, msgspec Struct, TypedDict, builtin ...), by the broker's codec.

        Raises:
            DecodeError: malformed, or of another shape.
        """
        return self._codec.decode(self.envelope.data, into)

    async def respond(self, body: Any, *, headers: HeadersLike | None = None) -> None:
        """Answer the request.

        Raises:
            InvalidSubject: the sender waits for no answer.
            EncodeError, InvalidHeader, PayloadTooLarge: as for ``publish``.
        """
        if self.reply_to is None:
            raise InvalidSubject(f"the message on {self.subject!r} asks for no reply", subject=self.subject)
        data, checked = encode_body(self._codec, body), Headers.checked(headers)
        try:
            self._backend.publish(self.reply_to, data, checked)
        except PayloadTooLarge as exc:  # an inbox's name would tell nobody anything
            raise PayloadTooLarge(
                size=exc.size, limit=exc.limit, subject=self.subject, hint="; it is a reply"
            ) from None
        self.answered = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(subject={self.subject!r}, {len(self.data)} bytes)"


class Settler(Protocol):
    """Who settles a stream message: the consumption, puller or reader that handed it out.

    Attributes:
        in_order: what it settles came only after all earlier messages of its ordering key were done with.
    """

    @property
    def in_order(self) -> bool:
        """See there."""
        return False

    async def ack(self, delivery: Delivery, *, confirm: bool) -> None:
        """Done."""

    async def nak(self, delivery: Delivery, *, delay: float | None) -> None:
        """Again, after ``delay`` seconds (``None``: the consumption's backoff)."""

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Never again."""

    async def in_progress(self, delivery: Delivery) -> None:
        """Still working."""


@final
class StreamMessage(Message, eq=False, kw_only=True):
    """A stored message on loan; settle it once: ``ack``, ``nak`` or ``term``.

    Inside ``consume`` a handler that returns settles it as done and one that raises gives it back, so most handlers
    call none of these.

    Attributes:
        parted: whether the handler settled it and the word is out: what comes of it now is another delivery.
    """

    settler: Settler
    _outcome: str | None = None
    parted: bool = False

    @property
    def delivery(self) -> Delivery:
        """The same data, as the stream lent it."""
        return cast("Delivery", self.envelope)

    @property
    def stream(self) -> str:
        """The stream that stores it."""
        return self.delivery.stream

    @property
    def sequence(self) -> int:
        """Its number in the stream, from 1. Only grows, so it serves as a fencing number."""
        return self.delivery.sequence

    @property
    def consumer(self) -> str:
        """The consumer that handed it out; empty when it was read without one."""
        return self.delivery.consumer

    @property
    def attempt(self) -> int:
        """How often this consumer has handed it out, this time included, from 1."""
        return self.delivery.attempt

    @property
    def timestamp(self) -> datetime:
        """When it was stored, by the server's clock (UTC)."""
        seconds, rest = divmod(self.delivery.timestamp_ns, _NS_PER_SECOND)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)

    @property
    def pending(self) -> int:
        """How many messages were waiting behind it when it was handed out."""
        return self.delivery.pending

    @property
    def idempotency_key(self) -> str | None:
        """The key the sender gave to ``enqueue``; ``None`` when it gave none or is another client."""
        headers = self.delivery.headers
        return None if headers is None else headers.get(KEY)

    @property
    def ordering_key(self) -> str | None:
        """The key whose messages keep their order; ``None`` when the sender gave none."""
        delivery = self.delivery
        told = None if delivery.headers is None else delivery.headers.get(ORDERING_KEY)
        if told is not None or delivery.lane_key is None:
            return told
        return key_of_token(delivery.lane_key)

    @property
    def settled(self) -> bool:
        """Whether it was acked, nak'ed or terminated."""
        return self._outcome is not None

    async def ack(self, *, confirm: bool = False) -> None:
        """Done: it will not be handed out again.

        Args:
            confirm: wait until the server says so. Without it the ack is sent and a crash right after may repeat
                the message; with it, one server killed at that moment still may (keep an inbox for money).

        Raises:
            AlreadySettled: it was settled before.
            AckUnknown: ``confirm`` got no answer; it may be handed out again.
        """
        await self._settle("ack", lambda: self.settler.ack(self.delivery, confirm=confirm))

    async def nak(self, *, delay: float | None = None) -> None:
        """Give it back for another attempt after ``delay`` seconds; ``None`` takes the consumer's backoff.

        While it waits it keeps its place in ``max_ack_pending``, unless ``reschedule_after`` says otherwise.

        Raises:
            AlreadySettled: it was settled before.
            InvalidOption: a negative delay.
        """
        if delay is not None:
            in_range("delay", delay, 0)
        await self._settle("nak", lambda: self.settler.nak(self.delivery, delay=delay))

    async def term(self, reason: str = "") -> None:
        """Give up on it: into the dead letters first (inside ``consume``), then never handed out again.

        Raises:
            AlreadySettled: it was settled before.
            InvalidOption: a reason that is no text.
        """
        check_text("reason", reason)
        await self._settle("term", lambda: self.settler.term(self.delivery, reason=reason))

    async def in_progress(self) -> None:
        """Still working: the ack wait starts anew. ``consume`` does this by itself.

        Raises:
            AlreadySettled: it was settled before.
        """
        if self._outcome is not None:
            raise self._twice("in_progress")
        await self.settler.in_progress(self.delivery)

    def renew(self, delivery: Delivery, settler: Settler) -> None:
        """Settle by this newer delivery of the same message instead (its owner held it past the ack wait)."""
        self.envelope = delivery
        self.settler = settler

    def mark_settled(self, outcome: str) -> bool:
        """Claim the one settlement for the owner of the consume loop; ``False`` when the handler has it."""
        if self._outcome is not None:
            return False
        self._outcome = outcome
        return True

    async def _settle(self, outcome: str, send: Callable[[], Awaitable[None]]) -> None:
        if self._outcome is not None:
            raise self._twice(outcome)
        self._outcome = outcome
        try:
            await send()
        except BaseException:
            self._outcome = None
            raise
        self.parted = True

    def _twice(self, outcome: str) -> AlreadySettled:
        return AlreadySettled(
            f"{outcome} after {self._outcome}: message {self.sequence} of {self.stream} is settled",
            subject=self.subject,
            stream=self.stream,
        )
