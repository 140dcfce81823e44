"""Who takes part, each used as its documentation recommends for speed; and who is missing for what reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loadtest.homes import HERE, NATSIO, NODE, PEERS, Home, Missing
from loadtest.workloads import BASELINE, OURS, RAW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

NOT_ASKED: Final = "left out with --peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A client.

    Attributes:
        name: of its file.
        shown: how tables call it.
        home: where it lives.
        distributions: whose versions matter.
        used: how, in one line.
    """

    name: str
    shown: str
    home: Home = HERE
    distributions: tuple[str, ...] = ()
    used: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A peer on this machine.

    Attributes:
        versions: of what runs.
        missing: why it does not take part; empty when it does.
    """

    peer: Peer
    versions: dict[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def told(self) -> str:
        """One line."""
        if self.missing:
            return f"{self.peer.shown}: missing, {self.missing}"
        return f"{self.peer.shown} ({', '.join(f'{name} {number}' for name, number in self.versions.items())})"


LINEUP: Final = (
    Peer(
        name=BASELINE,
        shown="nats-py",
        distributions=("nats-py", "uvloop"),
        used="`await nc.publish` with one flush at the end; callbacks; `publish_async` with a sliding window; "
        "`fetch(500)` and `await msg.ack()`",
    ),
    Peer(
        name=OURS,
        shown="gamebroker",
        distributions=("gamebroker", "uvloop"),
        used="its defaults, link `wire` (rows that say so: link `nats-py`); `publish_nowait` in bursts of 256 with "
        "room for the flood; `enqueue_many`; `consume` with `max_ack_pending=1000`",
    ),
    Peer(
        name="natsrpy",
        shown="natsrpy",
        home=PEERS,
        distributions=("natsrpy", "uvloop"),
        used="a Rust client; every call is awaited, its natural use; `js.publish(wait=True)` in a sliding window; "
        "`fetch(500)` and `await message.ack()`",
    ),
    Peer(
        name="faststream",
        shown="FastStream",
        home=PEERS,
        distributions=("faststream", "nats-py", "uvloop"),
        used="`NatsBroker` without logger and dependency injection; window = that many tasks awaiting "
        "`publish(stream=)`; pull subscriber with batches of 500",
    ),
    Peer(
        name="natsio",
        shown="natsio",
        home=NATSIO,
        distributions=("natsio", "uvloop"),
        used="its own Python, which it needs; callbacks with the waiting limits raised so that a flood is not dropped; "
        "`publish_async` in a sliding window; `consume()` and `await msg.ack()`",
    ),
    Peer(
        name="nodejs",
        shown="nats.js",
        home=NODE,
        distributions=("@nats-io/transport-node", "@nats-io/jetstream"),
        used="`nc.publish` in bursts of 1,000; callbacks; `js.publish` in a sliding window; `consume()` and "
        "`msg.ack()`",
    ),
    Peer(
        name=RAW,
        shown="raw socket",
        used="no client: frames made beforehand on a blocking socket; acks and replies are counted, not parsed; "
        "two pulls of 500 under way",
    ),
)


def turnout(asked: Collection[str] = (), lineup: Iterable[Peer] = LINEUP) -> list[Participant]:
    """Everyone, installed where needed; without ``asked`` nobody is left out. The baseline always takes part."""
    return [_participant(peer, asked) for peer in lineup]


def _participant(peer: Peer, asked: Collection[str]) -> Participant:
    if asked and peer.name not in {*asked, BASELINE}:
        return Participant(peer=peer, missing=NOT_ASKED)
    try:
        peer.home.ready()
        return Participant(peer=peer, versions=peer.home.versions(peer.distributions))
    except Missing as exc:
        return Participant(peer=peer, missing=str(exc))
