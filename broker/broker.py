"""``Broker``: the core tier. Fast, never blocking the caller, and gone if nobody is listening."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast, final

from broker.codecs import checked_codec
from broker.collecting import collected
from broker.connecting import Connecting, address_of, connected_backend, leave, url_or_default
from broker.contracts.errors import InvalidOption
from broker.contracts.headers import Headers, HeadersLike
from broker.contracts.options import ConnectOptions, LinkChoice, Overflow, in_range
from broker.contracts.subjects import publish_subject
from broker.handling import check_handler, is_async
from broker.lifetime import Lifetime
from broker.listening import Listener
from broker.messages import Message, encode_body
from broker.responding import Responder, checked_reply
from broker.roster import Roster
from broker.state.publisher import StatePublisher
from broker.state.reader import StateReader

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from os import PathLike
    from types import TracebackType

    from broker.contracts.backend import Capabilities, CoreBackend
    from broker.contracts.codec import Codec
    from broker.contracts.status import Stats, Status
    from broker.subscriptions import Subscription


class Broker:
    """At-most-once messaging over one connection.

    Made by ``connect``; or directly from a backend, for tests and wrappers. Not thread-safe: use it from the event
    loop it was connected in. Verbs that wait raise ``Unsupported`` in another one; ``publish_nowait``, ``publish`` and
    ``tick`` do not look: from a thread use ``loop.call_soon_threadsafe(broker.publish_nowait, subject, body)``.
    """

    def __init__(self, backend: CoreBackend, *, codec: Codec | None = None) -> None:
        if isinstance(backend, str):
            kind = type(self).__name__
            raise InvalidOption(f"{kind} wants a backend: use {kind}.connect(url)", option="backend")
        self._backend = backend
        self._name: str | None = None
        self._address: str | None = None
        self._codec = checked_codec(codec)
        self._roster = Roster()
        self._lifetime = Lifetime(backend, self._roster)
        self._listen = Listener(backend, self._codec, self._roster, self._lifetime)

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        name: str | None = None,
        codec: Codec | None = None,
        tls: ssl.SSLContext | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        creds: str | PathLike[str] | None = None,
        inbox_prefix: str | None = None,
        connect_timeout: float = 5.0,
        outbound_limit: int = 8 << 20,
        link: LinkChoice | None = None,
        tls_first: bool = False,
        echo: bool = True,
        id_secret: str | bytes | None = None,
    ) -> Connecting[Self]:
        """Connect; ``await`` the result or ``async with`` it.

        Args:
            url: ``nats://`` ``tls://`` ``ws://`` ``memory://`` ``embedded:///dir``, several separated by commas;
                ``None`` takes ``NATS_URL``, else ``nats://127.0.0.1:4222``.
            name: shown by the server next to this connection.
            codec: how bodies become bytes; JSON by default.
            tls: context for TLS; ``None`` uses the system's certificates where the URL asks for TLS.
            user: with ``password``, unless the URL carries them.
            password: see ``user``.
            token: instead of user and password.
            creds: path of a credentials file (JWT and seed, or an nkey's seed alone), instead of the others.
            inbox_prefix: first tokens of reply subjects; one per role keeps others from reading the replies.
            connect_timeout: seconds for the first connection; once connected it reconnects for ever.
            outbound_limit: bytes of core messages held unsent at most; beyond it the oldest are dropped and counted.
            link: what speaks NATS: ``"wire"``, our own client, or ``"nats-py"``, which alone goes to ``ws://`` and is
                taken there.
            tls_first: shake hands before the server's first word, for servers with ``handshake_first``.
            echo: whether what is published here comes back to subscriptions made here.
            id_secret: of a ``StreamBroker``, 16 bytes at least: nobody without it can tell by which id the server will
                know a key, and use it up first. The same for all who may send the same key; another one is another id.

        Raises:
            ConnectError: no server answered in time.
            Unauthorized: a server refused the credentials.
            ServerError, InUse: ``embedded://`` alone; see ``broker.server``.
            InvalidOption: an unknown scheme, a limit out of range, options that contradict.
        """
        options = ConnectOptions(
            url=url_or_default(url),
            name=name,
            tls=tls,
            user=user,
            password=password,
            token=token,
            creds=cast("str | None", creds),  # the options make text of a path
            inbox_prefix=inbox_prefix or "_INBOX",
            connect_timeout=connect_timeout,
            outbound_limit=outbound_limit,
            link=link,
            tls_first=tls_first,
            echo=echo,
        )

        codec, keyed = checked_codec(codec), {} if id_secret is None else cls._keyed(id_secret)

        async def start() -> Self:
            broker = cls(await connected_backend(options), codec=codec, **keyed)
            broker._name, broker._address = options.name, address_of(options)
            return broker

        return Connecting(start)

    @classmethod
    def _keyed(cls, id_secret: str | bytes) -> dict[str, Any]:
        """What makes its ids keyed ones; a broker that stores nothing has none."""
        del id_secret
        raise InvalidOption("id_secret is for a StreamBroker: a Broker stores nothing", option="id_secret")

    def __repr__(self) -> str:
        named = "" if self._name is None else f" {self._name!r}"
        return f"<{type(self).__name__}{named} {self.status}>"

    # -- what the connection is doing

    @property
    def status(self) -> Status:
        """connected, reconnecting, draining, closed or unauthorized."""
        return self._lifetime.status

    @final
    def status_changes(self) -> AsyncIterator[Status]:
        """The status now, then every change; ends after ``closed`` or ``unauthorized``."""
        return self._backend.board.changes()

    @property
    def capabilities(self) -> Capabilities:
        """What the backend claims to do."""
        return self._backend.capabilities

    @property
    def stats(self) -> Stats:
        """Counters since connect."""
        return self._backend.stats

    # -- verbs

    @final
    def publish_nowait(self, subject: str, body: Any, *, headers: HeadersLike | None = None) -> None:
        """Send and forget, in microseconds, whatever the server does: for game loops.

        What the connection cannot take at once waits in the outbound buffer; beyond ``outbound_limit`` bytes the
        oldest messages are dropped, each counted in ``stats.dropped_outbound``.

        Raises:
            InvalidSubject, InvalidHeader, EncodeError, PayloadTooLarge: at once; nothing was sent.
            BrokerClosed, Unauthorized: it will never be sent.
        """
        data = body if type(body) is bytes else encode_body(self._codec, body)
        sent = None if headers is None else Headers.checked(headers)
        # The backend checks the subject as well, and remembers it; here twice would be felt.
        self._backend.publish(subject if type(subject) is str else publish_subject(subject), data, sent)

    @final
    async def publish(self, subject: str, body: Any, *, headers: HeadersLike | None = None) -> None:
        """As ``publish_nowait``, but waits while the outbound buffer is above its high-water mark.

        So a flood is slowed rather than dropped. Cancelling the wait sends nothing.

        Raises:
            As ``publish_nowait``.
        """
        name, data = publish_subject(subject), body if type(body) is bytes else encode_body(self._codec, body)
        sent = None if headers is None else Headers.checked(headers)
        backend = self._backend
        while backend.congested:
            await backend.writable()
        backend.publish(name, data, sent)

    @final
    async def subscribe(
        self,
        subject: str,
        handler: Callable[[Message], Any] | None = None,
        *,
        queue: str | None = None,
        pending_limit: int = 65_536,
        overflow: Overflow = "drop_oldest",
    ) -> Subscription:
        """Receive what is published on the pattern; active on the server when it returns.

        An ``async def`` handler gets one message at a time, in order; a plain function is called inline as messages
        arrive and must not block. Without a handler, read with ``async for``. An error in a handler is logged and
        counted and ends that message only.

        Args:
            subject: a subject or a pattern with ``*`` and ``>``.
            handler: called with each ``Message``.
            queue: members of one queue group share the messages.
            pending_limit: messages (with ``overflow="latest"``: subjects) waiting at most.
            overflow: what happens at the limit: ``"drop_oldest"``, ``"drop_newest"``, or ``"latest"``, which keeps
                only the newest message of each subject at all times.

        Raises:
            InvalidSubject, InvalidOption: at once.
            PermissionDenied, ConnectionLost, BrokerClosed.
        """
        return await self._listen(
            subject, handler, queue=queue, pending_limit=pending_limit, overflow=overflow, wrap=True
        )

    @final
    async def request(
        self, subject: str, body: Any, *, timeout: float = 2.0, headers: HeadersLike | None = None
    ) -> Message:
        """Send and wait for the first reply.

        Raises:
            NoResponders: nobody listens; at once, it did not run.
            RequestTimeout: no reply in ``timeout`` seconds; it may have run.
            RemoteError: the responder raised.
            ConnectionLost: the connection broke while waiting; it may have run.
            PermissionDenied, BrokerClosed, and what ``publish_nowait`` raises at once.
        """
        in_range("timeout", timeout, 0)
        self._lifetime.check_loop()
        data = body if type(body) is bytes else encode_body(self._codec, body)
        sent = None if headers is None else Headers.checked(headers)
        envelope = await self._backend.request(publish_subject(subject), data, sent, timeout=timeout)
        return Message(checked_reply(envelope, subject), self._codec, self._backend)

    @final
    def request_many(
        self, subject: str, body: Any, *, timeout: float = 1.0, max_replies: int | None = None
    ) -> AsyncIterator[Message]:
        """Send and collect replies until ``timeout`` seconds have passed or ``max_replies`` came.

        Error replies are raised as ``RemoteError``; ending early (``break``) stops listening.

        Raises:
            NoResponders: nobody listens.
            PermissionDenied: the server forbids the question; at once.
            ConnectionLost: the connection broke meanwhile; replies may be missing.
            And what ``request`` raises at once.
        """
        in_range("timeout", timeout, 0)
        if max_replies is not None:
            in_range("max_replies", max_replies, 1, whole=True)
        return collected(
            publish_subject(subject),
            encode_body(self._codec, body),
            timeout=timeout,
            max_replies=max_replies,
            backend=self._backend,
            listen=partial(self._listen, overflow="drop_newest"),
        )

    @final
    async def respond(
        self,
        subject: str,
        responder: Callable[[Message], Any],
        *,
        queue: str | None = None,
        concurrency: int = 64,
    ) -> Subscription:
        """Answer requests: the responder's return value is the reply, its exception an error reply.

        Args:
            subject: a subject or pattern.
            responder: called with each request; a plain function is called inline and must not block.
            queue: members of one queue group share the requests.
            concurrency: ``async def`` responders running at once; further requests wait their turn.

        Raises:
            As ``subscribe``.
        """
        in_range("concurrency", concurrency, 1, whole=True)
        check_handler(responder)
        answering = Responder(responder, concurrency=concurrency, codec=self._codec, backend=self._backend)
        handle = answering.handle if is_async(responder) else answering.handle_inline
        subscription = await self._listen(subject, handle, queue=queue)
        answering.subscription = subscription
        self._roster.enlist(answering)
        return subscription

    @final
    def state(self, subject: str, *, keyframe_every: int = 30, epoch: int = 0, keep_events: int = 30) -> StatePublisher:
        """Send a room's state, newest wins: call ``tick(state, events)`` once a tick; it never waits.

        Leave it with ``async with`` or ``aclose``.

        Args:
            subject: of the room's frames; readers ask for snapshots on ``<subject>.snapshot``.
            keyframe_every: ticks from one whole state to the next; between them only what changed since is sent.
            epoch: of the room's owner, a fencing number: readers ignore frames of lower epochs.
            keep_events: of the newest events, how many ride in a frame.

        Raises:
            InvalidSubject, InvalidOption, EncodeError (a codec for bytes only), BrokerClosed: at once.
        """
        self._lifetime.check_open()
        publisher = StatePublisher(
            subject,
            keyframe_every=keyframe_every,
            epoch=epoch,
            keep_events=keep_events,
            backend=self._backend,
            codec=self._codec,
            listen=self._listen,
            forget=self._roster.drainables.discard,
        )
        self._roster.drainables.add(publisher)
        return publisher

    @final
    def watch_state(self, subject: str, *, rooms_limit: int = 4096) -> StateReader:
        """Follow the state of a room, or of every room a pattern covers, inside ``async with``.

        Iterate for updates, or look at ``reader.state`` and ``reader.rooms``, which never wait.

        Args:
            subject: a subject or pattern.
            rooms_limit: rooms kept at most; beyond it the one silent for longest is forgotten and counted.

        Raises:
            InvalidSubject, InvalidOption, EncodeError (a codec for bytes only), BrokerClosed: at once.
            PermissionDenied, ConnectionLost: on entering.
        """
        self._lifetime.check_open()
        return StateReader(
            subject,
            rooms_limit=rooms_limit,
            backend=self._backend,
            codec=self._codec,
            listen=self._listen,
            register=self._roster.drainables.add,
            forget=self._roster.drainables.discard,
        )

    @final
    async def flush(self, timeout: float = 2.0) -> None:
        """Return when the server has processed everything sent before.

        Raises:
            RequestTimeout: no answer in ``timeout`` seconds.
            ConnectionLost, BrokerClosed.
        """
        in_range("timeout", timeout, 0)
        self._lifetime.check_loop()
        await self._backend.flush(timeout=timeout)

    @final
    async def drain(self, timeout: float = 25.0) -> None:
        """Stop receiving, finish running handlers, settle, flush and close; all within ``timeout`` seconds.

        Handlers still running then are cancelled and their messages given back. Idempotent. Cancelled, it closes as
        ``aclose`` does before it lets go.
        """
        in_range("timeout", timeout, 0)
        await self._lifetime.drain(timeout)

    @final
    async def aclose(self) -> None:
        """Close now: handlers are cancelled, their messages given back, what was sent is flushed for up to 2 s.

        Idempotent; bounded whatever the server does. Cancelled, it lets go at once and the closing goes on by itself.
        """
        await self._lifetime.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await leave(self, error)
