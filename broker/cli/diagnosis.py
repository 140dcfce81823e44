"""From facts to plain sentences: what is well, what is not, and what to do about it. Rules only: no ``await`` here."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from broker.contracts.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.backends.nats.examining import Facts, Greeting

Level = Literal["ok", "warning", "problem", "unknown"]

_OLDEST: Final = (2, 12, 6)
"""Older servers let clients around the management API's permissions and around mutual TLS."""
_LOOPBACK: Final = ("127.", "localhost:", "[::1]", "::1")
_DAY: Final = 86_400.0
_EXPIRES_SOON: Final = 14.0
_CLOCK: Final = (1.0, 30.0)
"""Seconds apart from which it is worth a word, and from which it is a problem."""
_PAYLOAD: Final = (64 << 10, 8 << 20)
"""Bytes: below, dead letters and state frames do not fit; above, one message holds up the connection of the others."""
_FULL: Final = (0.8, 0.95)
_QUORUM: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence.

    Attributes:
        check: what was looked at.
        level: ``"unknown"`` is what cannot be known from here: neither well nor ill.
        says: what was found.
        do: what to do about it; empty when there is nothing.
    """

    check: str
    level: Level
    says: str
    do: str = ""


def diagnose(facts: Facts) -> list[Finding]:
    """Everything that can be said, in the order in which it matters."""
    found = [
        finding for greeting in facts.greetings for finding in _server(greeting, refused=facts.refused is not None)
    ]
    if len(versions := {_version_of(each) for each in facts.greetings if each.info}) > 1:
        found.append(
            Finding("version", "warning", f"the servers differ: {', '.join(sorted(versions))}", "Upgrade all.")
        )
    if facts.refused is not None:
        return [*found, _refused(facts)]
    login = [_login(facts), _payload(facts), *_clock(facts)]
    return [*found, *login, *_permissions(facts), *_jetstream(facts), _durability(facts), *_cluster(facts)]


# -- what a server says to everybody


def _server(greeting: Greeting, *, refused: bool) -> Iterator[Finding]:
    if greeting.info is None:
        level: Level = "unknown"
        if "nobody there" in greeting.trouble:
            level = "problem" if refused else "warning"  # another one of the list may have let us in
        yield Finding("server", level, f"{greeting.server}: {greeting.trouble or 'its first words are not NATS'}")
        return
    yield _version(greeting)
    yield _tls(greeting)


def _version_of(greeting: Greeting) -> str:
    return str((greeting.info or {}).get("version") or "")


def _version(greeting: Greeting) -> Finding:
    told = _version_of(greeting)
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", told)
    says = f"{greeting.server} runs nats-server {told or 'of no version'}"
    if numbers is None:
        return Finding("version", "unknown", f"{says}: not a version we know")
    if tuple(map(int, numbers.groups())) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return Finding(
            "version",
            "problem",
            f"{says}; before {oldest} permissions on the management API and mutual TLS can be got around",
            f"Upgrade to {oldest} or newer.",
        )
    return Finding("version", "ok", says)


def _tls(greeting: Greeting) -> Finding:
    info = greeting.info or {}
    here = greeting.server.startswith(_LOOPBACK)
    if greeting.trouble:
        return Finding(
            "tls",
            "problem",
            f"{greeting.server}: {greeting.trouble}",
            "Name the authority that signed its certificate (--ca, connect(tls=)) and connect by a name in it.",
        )
    if not greeting.encrypted:
        level: Level = "warning" if here else "problem"
        says = f"{greeting.server} speaks in the clear: passwords and messages can be read on the way"
        return Finding("tls", level, says, "Give the server a tls block; deploy/nats/tls.conf is one.")
    if greeting.expires is not None and (days := (greeting.expires - time.time()) / _DAY) < _EXPIRES_SOON:
        says = f"the certificate of {greeting.server} is valid for {days:.1f} more days"
        return Finding("tls", "warning", says, "Renew it, and `nats-server --signal reload`.")
    if not info.get("tls_required"):
        says = f"{greeting.server} offers TLS and takes clients without it, too"
        return Finding("tls", "warning", says, "Take allow_non_tls out of its configuration.")
    until = "" if greeting.expires is None else f"; its certificate is valid until {_day(greeting.expires)}"
    return Finding("tls", "ok", f"{greeting.server} speaks TLS only{until}")


def _refused(facts: Facts) -> Finding:
    if isinstance(facts.refused, Unauthorized):
        do = "Look at --user and NATS_PASSWORD (or --creds), and at the server's users."
        return Finding("login", "problem", str(facts.refused), do)
    return Finding("connection", "problem", str(facts.refused), "Nothing more can be found out without one.")


# -- what it says to this user


def _login(facts: Facts) -> Finding:
    if any(each.info and not each.info.get("auth_required") for each in facts.greetings):
        says = "the server asks nobody who they are: whoever reaches it may do everything"
        return Finding("login", "warning", says, "Give every role a login; deploy/nats/accounts.conf is an example.")
    if facts.user is None:
        return Finding("login", "ok", "connected; as whom, the server does not say")
    return Finding("login", "ok", f"connected as {facts.user.get('user')!r} of account {facts.user.get('account')!r}")


def _payload(facts: Facts) -> Finding:
    size = facts.max_payload or 0
    says = f"one message may have {size} bytes, headers included"
    if size < _PAYLOAD[0]:
        return Finding("max_payload", "warning", f"{says}: large states and dead letters will not fit", "Raise it.")
    if size > _PAYLOAD[1]:
        do = "Lower it to 1 MB; large things belong elsewhere."
        return Finding("max_payload", "warning", f"{says}: one of that size holds up all others", do)
    return Finding("max_payload", "ok", says)


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.clock is None:
        yield Finding("clock", "unknown", "this user is not told the server's time", _GRANT)
        return
    apart, error = abs(facts.clock), facts.clock_error
    says = (
        f"the server's clock is {apart:.3f} s {'ahead' if facts.clock > 0 else 'behind'} (give or take {error:.3f} s)"
    )
    if apart - error > _CLOCK[0]:
        level: Level = "problem" if apart - error > _CLOCK[1] else "warning"
        yield Finding("clock", level, f"{says}: what is scheduled comes early or late", "Let both keep time by NTP.")
    else:
        yield Finding("clock", "ok", says)


_GRANT: Final = "Allow it to publish $SYS.REQ.USER.INFO, which tells it about itself only."


def _permissions(facts: Facts) -> Iterator[Finding]:
    for what, (may, subject) in facts.abilities.items():
        if may:
            yield Finding("permissions", "ok", f"{what}: allowed ({subject})")
        elif "replies" in what:
            do = "Connect with this role's own prefix (--inbox-prefix, connect(inbox_prefix=)) or allow this one."
            yield Finding("permissions", "problem", f"{what}: not allowed to {subject}; nothing is ever answered", do)
        elif what in _MANAGING:
            do = "Fine for a worker that binds (ensure='bind'); whoever declares needs it."
            yield Finding("permissions", "ok", f"{what}: not allowed ({subject})", do)
        else:
            yield Finding("permissions", "problem", f"{what}: not allowed ({subject})", "Allow it for this worker.")
    if facts.user is None:
        says = f"what this user may do cannot be known: {facts.unknown.get('user', 'it was not told')}"
        yield Finding("permissions", "unknown", says, _GRANT)
    elif not facts.user.get("permissions") and any(
        each.info and each.info.get("auth_required") for each in facts.greetings
    ):
        says = "this user may do everything in its account"
        yield Finding(
            "permissions", "warning", says, "Fine for an administrator; give services lists of what they need."
        )


_MANAGING: Final = ("declaring streams", "looking streams up", "making consumers")


# -- JetStream


def _jetstream(facts: Facts) -> Iterator[Finding]:
    if facts.jetstream is False:
        do = "Put a jetstream block into the server's configuration, and jetstream: enabled into the account."
        yield Finding("jetstream", "problem", f"no stream tier here: {facts.unknown.get('account', '')}", do)
        return
    if facts.account is None:
        says = f"JetStream's account of this user cannot be read: {facts.unknown.get('account', '')}"
        if any((each.info or {}).get("jetstream") for each in facts.greetings):
            says = f"{says}; the server has JetStream enabled"
        yield Finding("jetstream", "unknown", says, "Ask as a role that may publish $JS.API.INFO.")
        return
    yield Finding("jetstream", "ok", "JetStream is enabled for this account")
    if facts.absent:
        do = "Declare it (sb.declare, sb.consumers.ensure), or look whether its name is spelled so."
        yield Finding("worker", "problem", facts.absent, do)
    limits = facts.account.get("limits") or {}
    for name, used, most, unit in (
        ("disk", facts.account.get("storage"), limits.get("max_storage"), " bytes"),
        ("memory", facts.account.get("memory"), limits.get("max_memory"), " bytes"),
        ("streams", facts.account.get("streams"), limits.get("max_streams"), ""),
        ("consumers", facts.account.get("consumers"), limits.get("max_consumers"), ""),
    ):
        yield _limit(name, used or 0, most if most is not None else -1, unit)


def _limit(name: str, used: int, most: int, unit: str) -> Finding:
    if most <= 0:
        return Finding("limits", "ok", f"{name}: {used}{unit} in use; this account has no limit of its own")
    says = f"{name}: {used} of {most}{unit} in use"
    if used >= most * _FULL[0]:
        level: Level = "problem" if used >= most * _FULL[1] else "warning"
        return Finding("limits", level, says, "Raise the account's limit, or purge what nobody needs.")
    return Finding("limits", "ok", says)


def _durability(facts: Facts) -> Finding:
    kept = facts.kept
    if kept is None or not kept.told:
        says = "whether stored means on the disk cannot be known: a server tells it on its monitoring pages only"
        pages = f"Give --monitoring http://host:8222{', one of every node' if _clustered(facts) else ''}"
        return Finding("durability", "unknown", says, f"{pages}{f' ({kept.why})' if kept else ''}.")
    if kept.level == "fsync":
        return Finding("durability", "ok", f"{kept.why}; what is acknowledged is on the disk")
    says = f"{kept.why}; what is acknowledged reaches the disk later, and a power cut loses it"
    return Finding("durability", "warning" if _clustered(facts) else "problem", says)


def _clustered(facts: Facts) -> bool:
    return any((each.info or {}).get("cluster") for each in facts.greetings)


def _cluster(facts: Facts) -> Iterator[Finding]:
    meta = (facts.storage or {}).get("meta_cluster") or {}
    size = int(meta.get("cluster_size") or 0)
    if not _clustered(facts):
        says = "one server alone: what is stored does not survive its disk, and nothing is served while it is away"
        yield Finding("cluster", "warning", says, "Fine for development; run three nodes and replicas=3 for money.")
    elif not size:
        do = "Give --monitoring http://host:8222."
        yield Finding("cluster", "unknown", "part of a cluster; how large it is cannot be known from here", do)
    elif size < _QUORUM or not size % 2:
        yield Finding(
            "cluster",
            "warning",
            f"a cluster of {size}: it outlives no more than one of {size - 1} would",
            "Run 3 or 5.",
        )
    else:
        yield Finding("cluster", "ok", f"a cluster of {size}, led by {meta.get('leader') or 'nobody right now'}")
    if facts.streams is None:
        if facts.jetstream is not False:
            says = f"streams and their copies cannot be listed: {facts.unknown.get('streams', '')}"
            yield Finding("replicas", "unknown", says, "Ask as a role that may publish $JS.API.STREAM.LIST.")
        return
    for name in facts.silent:
        says = f"stream {name} does not answer: the nodes it is on are away, and nothing of it can be stored or read"
        yield Finding("replicas", "problem", says, "Bring its nodes back; declare it with replicas=3.")
    for stream in facts.streams:
        yield from _copies(stream, clustered=_clustered(facts))


def _copies(stream: dict[str, Any], *, clustered: bool) -> Iterator[Finding]:
    name, copies = stream["config"]["name"], int(stream["config"].get("num_replicas") or 1)
    members = (stream.get("cluster") or {}).get("replicas") or ()
    away = [str(each.get("name")) for each in members if each.get("offline") or not each.get("current")]
    if clustered and not (stream.get("cluster") or {}).get("leader"):
        yield Finding("replicas", "problem", f"stream {name} has no leader: it stores nothing", "Look at the nodes.")
    elif away:
        says = f"stream {name}: {', '.join(away)} of its {copies} copies is away or behind"
        yield Finding("replicas", "warning", says, "Look at that node; one more away and it stores nothing.")
    elif clustered and copies < _QUORUM:
        says = f"stream {name} has {copies} copy in a cluster: it does not survive that node"
        yield Finding("replicas", "warning", says, "Declare it with replicas=3.")
    else:
        yield Finding("replicas", "ok", f"stream {name}: {copies} {'copy' if copies == 1 else 'copies'}")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
