"""What servers and this user's rights on them look like from here: facts only; what they mean is others' to say.

What could not be found out is ``None``, with the reason in ``Facts.unknown``. Nothing is changed on the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from broker.backends.nats import addresses
from broker.backends.nats.api import LIST_TIMEOUT, Api
from broker.backends.nats.convert import timestamp_ns
from broker.backends.nats.core import NatsCore
from broker.backends.nats.durability import address_of, durability_of, place_of
from broker.backends.nats.session import Session
from broker.backends.nats.shapes import Account, Page, UserInfo, shaped
from broker.contracts.errors import (
    BrokerError,
    ConsumerNotFound,
    InvalidOption,
    JetStreamNotEnabled,
    PermissionDenied,
    StreamNotFound,
)
from broker.contracts.subjects import covers

if TYPE_CHECKING:
    from broker.contracts.durability import Kept
    from broker.contracts.options import ConnectOptions

_PATIENCE: Final = 3.0
"""Seconds for one answer."""
_LISTING: Final = 30.0
"""Seconds for the list of all streams."""
_USER_INFO: Final = "$SYS.REQ.USER.INFO"
_LONGEST_GREETING: Final = 64 << 10
_ELSEWHERE: Final = (addresses.EMBEDDED, "memory://", "redis://")
_SILENT: Final = "it says nothing before TLS; it may want --tls-first"
_ALERT: Final = b"\x15\x03"
"""How TLS begins to say that what it heard is none."""
_REPLIES: Final = "replies (request, enqueue, consume)"


@dataclass(slots=True, kw_only=True)
class Greeting:
    """What one server says to whoever comes, before any login.

    Attributes:
        server: its address, without credentials.
        info: its first words; ``None`` when it said none.
        encrypted: whether TLS followed.
        expires: until when its certificate is valid, seconds since the epoch.
        trouble: why there is no more of this; empty when there is all.
    """

    server: str
    info: dict[str, Any] | None = None
    encrypted: bool = False
    expires: float | None = None
    trouble: str = ""


@dataclass(slots=True, kw_only=True)
class Facts:
    """What was found out.

    Attributes:
        greetings: of every server of the URL.
        refused: why this user could not connect; ``None`` when it could.
        inbox: the prefix of reply subjects.
        user: who the server takes us for, with ``permissions`` when there are any; ``None``: it did not say.
        account: JetStream's account of itself: limits and use.
        jetstream: whether this account may use it; ``None``: nobody said.
        max_payload: bytes, as said to this user.
        clock: seconds by which the server's clock is ahead of ours; the error is ``clock_error``.
        streams: all that this user may see, raw; but those of ``silent``: the servers know them, and nobody answers
            for them.
        absent: of what was named for a worker, what the server does not have, in words.
        abilities: what the library needs -> whether this user may, and the subject that decides it.
        connected: the id of the server that let us in; empty when none did.
        kept: what the monitoring pages say of disks; ``None``: none was named.
        process: the monitoring page of the server's process; ``storage``: that of its JetStream.
        unknown: what could not be found out -> why.
    """

    greetings: list[Greeting] = field(default_factory=list)
    refused: BrokerError | None = None
    inbox: str = ""
    user: dict[str, Any] | None = None
    account: dict[str, Any] | None = None
    jetstream: bool | None = None
    max_payload: int | None = None
    clock: float | None = None
    clock_error: float = 0.0
    streams: list[dict[str, Any]] | None = None
    silent: list[str] = field(default_factory=list)
    absent: str = ""
    abilities: dict[str, tuple[bool, str]] = field(default_factory=dict)
    connected: str = ""
    kept: Kept | None = None
    process: dict[str, Any] | None = None
    storage: dict[str, Any] | None = None
    unknown: dict[str, str] = field(default_factory=dict)


async def examine(options: ConnectOptions, *, stream: str | None = None, durable: str | None = None) -> Facts:
    """Look at the servers of the URL, as the user of the options; ``stream`` and ``durable`` are those of a worker.

    Raises:
        InvalidOption: not the URL of NATS servers.
    """
    if options.url.startswith(_ELSEWHERE):
        raise InvalidOption("url: there is a server to look at behind nats:// and tls:// only", option="url")
    address = addresses.parse(options)
    facts = Facts(inbox=options.inbox_prefix)
    facts.greetings = list(await asyncio.gather(*(_greeting(url, options) for url in address.urls)))
    try:
        session = await Session.open(options)
    except BrokerError as exc:
        facts.refused = exc
        return facts
    try:
        facts.connected = session.link.server_id
        await _ask(session, facts, stream, durable)
    finally:
        await session.close()
    return facts


async def look_at_monitoring(facts: Facts, url: str) -> None:
    """Add what the monitoring pages say: one URL, or those of all servers of a cluster, separated by commas."""
    pages = [each.strip() for each in url.split(",") if each.strip()]
    facts.kept = await durability_of(pages, lambda: facts.connected)
    for page in pages[:1]:
        await _look_at(facts, page)


async def _look_at(facts: Facts, url: str) -> None:
    from broker.server.wire import http_get  # noqa: PLC0415 - no server is started; only its reader of pages is used

    try:
        host, port = address_of(url)
        before = time.time()
        pages = [await http_get(host, port, page, timeout=_PATIENCE) for page in ("/varz", "/jsz?config=true")]
        process, storage = (orjson.loads(said) if fine else None for fine, said in pages)
    except (OSError, ValueError) as exc:
        facts.unknown["monitoring"] = f"{place_of(url)}: {str(exc) or 'no answer in time'}"
        return
    known = {facts.connected, *(str((each.info or {}).get("server_id")) for each in facts.greetings)}
    if not isinstance(process, dict) or process.get("server_id") not in known:
        facts.unknown["monitoring"] = f"{place_of(url)}: not the page of a server that the URL leads to"
        return
    facts.process, facts.storage = process, storage if isinstance(storage, dict) else None
    if facts.clock is None and facts.process is not None:
        _compare_clocks(facts, str(facts.process.get("now") or ""), before)


# -- before any login


async def _greeting(url: str, options: ConnectOptions) -> Greeting:
    split = urlsplit(url)
    host, port = split.hostname or "", split.port or 0
    found = Greeting(server=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if split.scheme in {"ws", "wss"}:
        found.trouble = "websockets: nothing is said before the login"
        return found
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port, limit=_LONGEST_GREETING)
    except OSError as exc:  # a TimeoutError is one
        found.trouble = f"nobody there: {str(exc) or 'no answer in time'}"
        return found
    try:
        async with asyncio.timeout(_PATIENCE):
            await _hear(found, reader, writer, host, options)
    except ssl.SSLError as exc:
        found.trouble = f"TLS failed: {getattr(exc, 'verify_message', None) or exc.reason or exc}"
    except (OSError, ValueError) as exc:
        found.trouble = str(exc) or _SILENT
    finally:
        await _hang_up(writer)
    return found


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """At once; and what ended the line is heard, or it would be told on standard error as nobody's."""
    writer.transport.abort()
    with contextlib.suppress(OSError):  # a TimeoutError is one
        async with asyncio.timeout(_PATIENCE):
            await writer.wait_closed()


async def _hear(
    found: Greeting, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, options: ConnectOptions
) -> None:
    """The first words, and TLS before or after them."""
    if options.tls_first:
        await _encrypt(found, writer, host, options)
    line = await reader.readline()
    if not line or line.startswith(_ALERT):
        found.trouble = _SILENT
    told = orjson.loads(line.removeprefix(b"INFO ")) if line.startswith(b"INFO ") else None
    found.info = told if isinstance(told, dict) else None
    if found.info and not options.tls_first and (found.info.get("tls_required") or found.info.get("tls_available")):
        await _encrypt(found, writer, host, options)


async def _encrypt(found: Greeting, writer: asyncio.StreamWriter, host: str, options: ConnectOptions) -> None:
    await writer.start_tls(options.tls or ssl.create_default_context(), server_hostname=host)
    found.encrypted = True
    certificate = writer.get_extra_info("peercert") or {}
    if "notAfter" in certificate:
        found.expires = float(ssl.cert_time_to_seconds(certificate["notAfter"]))


# -- as this user


async def _ask(session: Session, facts: Facts, stream: str | None, durable: str | None) -> None:
    core = NatsCore(session)
    api = Api(session, core)
    facts.max_payload = core.max_payload
    await _about_user(core, facts)
    try:
        account = await api.call("INFO", timeout=_PATIENCE)
        shaped(account, Account)
        facts.account, facts.jetstream = account, True
    except JetStreamNotEnabled as exc:
        facts.jetstream, facts.unknown["account"] = False, str(exc)
    except (BrokerError, ValueError) as exc:
        facts.unknown["account"] = str(exc)
    if facts.jetstream is not False:
        try:
            async with asyncio.timeout(_LISTING):
                await _list_streams(api, facts)
        except TimeoutError:
            facts.unknown["streams"] = f"the list had no end in {_LISTING:.0f} s"
        except (BrokerError, ValueError) as exc:
            facts.unknown["streams"] = str(exc)
        await _look_up(api, facts, stream, durable)
    permissions = (facts.user or {}).get("permissions")
    if facts.user is not None:
        facts.abilities = {
            what: (_may(permissions, verb, subject), f"{verb} {subject}")
            for what, verb, subject in _needs(facts.inbox, stream, durable)
        }


async def _about_user(core: NatsCore, facts: Facts) -> None:
    before = time.time()
    try:
        answer = await core.request(_USER_INFO, b"", None, timeout=_PATIENCE)
        told = orjson.loads(answer.data)
        shaped(told, UserInfo)
    except (BrokerError, ValueError) as exc:
        facts.unknown["user"] = str(exc)
        if isinstance(exc, PermissionDenied) and exc.verb == "subscribe":
            facts.abilities[_REPLIES] = (False, f"subscribe {facts.inbox}.>")
        return
    facts.user = told.get("data") or {}
    _compare_clocks(facts, str((told.get("server") or {}).get("time") or ""), before)


async def _look_up(api: Api, facts: Facts, stream: str | None, durable: str | None) -> None:
    """Whether what a worker is to work on is there; a role that may not ask is told nothing."""
    if stream is None:
        return
    verb = f"STREAM.INFO.{stream}" if durable is None else f"CONSUMER.INFO.{stream}.{durable}"
    try:
        await api.call(verb, timeout=_PATIENCE, stream=stream)
    except StreamNotFound:
        facts.absent = f"there is no stream {stream}"
    except ConsumerNotFound:
        facts.absent = f"stream {stream} has no consumer {durable}"
    except BrokerError:
        return


async def _list_streams(api: Api, facts: Facts) -> None:
    found: dict[str, dict[str, Any]] = {}
    silent: set[str] = set()
    offset, total = 0, 1
    while offset < total:
        answer = await api.call("STREAM.LIST", {"offset": offset}, timeout=LIST_TIMEOUT)
        shaped(answer, Page)
        page, unanswered = answer.get("streams") or [], answer.get("missing") or []
        if not page and not unanswered:
            break
        found |= {each["config"]["name"]: each for each in page}
        silent |= {*unanswered}
        offset += len(page) + len(unanswered)
        total = int(answer.get("total") or 0)
    facts.streams, facts.silent = list(found.values()), sorted(silent - found.keys())


def _compare_clocks(facts: Facts, theirs: str, before: float) -> None:
    """The server looked at its clock some time between our two looks at ours."""
    after = time.time()
    try:
        told = timestamp_ns(theirs) / 1e9
    except ValueError:
        return
    facts.clock, facts.clock_error = told - (before + after) / 2, (after - before) / 2


# -- what the library needs


def _needs(inbox: str, stream: str | None, durable: str | None) -> list[tuple[str, str, str]]:
    """What each verb takes: what it is good for, and what has to be allowed."""
    needs = [
        (_REPLIES, "subscribe", f"{inbox}.>"),
        ("declaring streams", "publish", f"$JS.API.STREAM.CREATE.{stream or 'STREAM'}"),
        ("looking streams up", "publish", "$JS.API.STREAM.NAMES"),
        ("making consumers", "publish", f"$JS.API.CONSUMER.CREATE.{stream or 'STREAM'}.{durable or 'consumer'}"),
    ]
    if stream is not None and durable is not None:
        needs += [
            ("taking messages", "publish", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            ("settling messages", "publish", f"$JS.ACK.{stream}.{durable}.>"),
            ("writing dead letters", "publish", f"gamebroker.dead.{stream}.{durable}"),
        ]
    return needs


def _may(permissions: dict[str, Any] | None, verb: str, subject: str) -> bool:
    """Whether all of the subject is allowed and not denied. No permissions: everything is.

    What is said of a queue group ("subject queue") is about its members only.
    """
    of_verb = (permissions or {}).get(verb) or {}
    allowed, denied = of_verb.get("allow"), of_verb.get("deny") or ()
    if any(covers(pattern, subject) for pattern in denied if " " not in pattern):
        return False
    return allowed is None or any(covers(pattern, subject) for pattern in allowed if " " not in pattern)
