"""What is judged: everything the histories and the books say, gathered and not yet judged. Asks no process anything."""

from __future__ import annotations

from array import array
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loadtest.chaos.books import BOOKS, GUARDS, INBOX, reader
from loadtest.chaos.histories import DIGEST, Event, Fate, Op, events, histories
from loadtest.chaos.plan import Plan
from loadtest.chaos.settlements import MINT, settlement_of

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

Pair = tuple[str, str]
"""A key and the digest of a payload: what was sent under a key twice with different payloads is two."""


@dataclass(slots=True)
class Life:
    """One process, as itself and its starter tell it.

    Attributes:
        beats: its signs of life: when, and its counts.
        statuses: of its connection: from when on, which.
        why: it ended: ``"asked"`` by SIGTERM, ``"killed"`` on purpose, ``"died"`` otherwise; empty when nobody knows.
        code: its exit code; ``took`` seconds to end when it was asked to.
    """

    begun: float = 0.0
    ended: float = float("inf")
    beats: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    statuses: list[tuple[float, str]] = field(default_factory=list)
    why: str = ""
    code: int = 0
    took: float = 0.0


@dataclass(slots=True)
class Struck:
    """What became of a planned fault; times are ``None`` when it never came to that."""

    begun: float | None = None
    fired: float | None = None
    healed: float | None = None
    elected: float | None = None
    told: str = ""


@dataclass(slots=True)
class Ledger:
    """What the books say. Lists hold keys unless said otherwise.

    Attributes:
        effects: keys of the inbox, with the digest of the payload that took effect.
        twice: booked more than once; ``half``: a leg is missing.
        uneven: legs that do not add up to zero.
        wrong: an account or an amount that is not the one the key stands for.
        unbooked: in the inbox, without a posting; ``unclaimed``: with postings, and not in the inbox.
        unsent: without exactly one row in the outbox.
        untrue: accounts whose balance is not the sum of their postings.
        total: of all postings.
        guarded: whether the triggers that make it append-only are there.
    """

    effects: set[Pair] = field(default_factory=set)
    twice: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    uneven: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unbooked: list[str] = field(default_factory=list)
    unclaimed: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    total: int = 0
    guarded: bool = False


@dataclass(slots=True)
class Evidence:
    """A run, unjudged.

    Attributes:
        fates: what was sent, and what it is meant to come to.
        perhaps: attempts of each that may have stored it; 0: it certainly was not.
        stored: what the server confirmed, or the sender's outbox has.
        letters: dead letters: pair -> reason.
        left: messages nobody had settled at the end; ``None`` when nobody looked.
        stored_at: when each was confirmed, ascending; ``effect_at``: when each was committed.
        counts: events of each kind.
        redelivered: deliveries with an attempt above 1.
        lives: process -> its life.
        faults: number -> what became of it.
    """

    plan: Plan
    fates: dict[Pair, Fate] = field(default_factory=dict)
    perhaps: Counter[Pair] = field(default_factory=Counter)
    stored: set[Pair] = field(default_factory=set)
    letters: dict[Pair, str] = field(default_factory=dict)
    left: int | None = None
    stored_at: array[float] = field(default_factory=lambda: array("d"))
    effect_at: array[float] = field(default_factory=lambda: array("d"))
    counts: Counter[Op] = field(default_factory=Counter)
    redelivered: int = 0
    lives: dict[str, Life] = field(default_factory=dict)
    faults: dict[int, Struck] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def began(self) -> float:
        """When the first process was started."""
        return min((life.begun for life in self.lives.values() if life.begun), default=0.0)


def gather(directory: Path) -> Evidence:
    """The evidence of a run from its directory.

    Raises:
        OSError, sqlite3.Error, msgspec.DecodeError: it is not all there.
    """
    evidence = Evidence(Plan.load(directory))
    reading = _Reading(evidence)
    for process, path in histories(directory):
        for event in events(path):
            reading.note(process, event)
    for times in ("stored_at", "effect_at"):
        setattr(evidence, times, array("d", sorted(getattr(evidence, times))))
    with closing(reader(directory / BOOKS)) as db:
        evidence.ledger = _ledger(db)
    return evidence


class _Reading:
    """Sorts events into the evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self._found = evidence
        self._pairs: dict[Pair, Pair] = {}

    def note(self, process: str, event: Event) -> None:
        found = self._found
        found.counts[event.op] += 1
        if event.op in _OF_MESSAGES:
            self._note_message(event)
        elif event.number:
            self._note_fault(event)
        elif event.op in {Op.BEGUN, Op.ENDED}:
            self._note_life(found.lives.setdefault(event.key, Life()), event)
        elif event.op is Op.BEAT:
            found.lives.setdefault(process, Life()).beats.append((event.t, event.counts))
        elif event.op is Op.STATUS:
            found.lives.setdefault(process, Life()).statuses.append((event.t, event.told))
        elif event.op is Op.LEFT:
            found.left = int(sum(event.counts.values()))

    def _note_message(self, event: Event) -> None:
        found = self._found
        pair = (event.key, event.digest)
        pair = self._pairs.setdefault(pair, pair)
        if event.op is Op.START:
            found.fates[pair] = Fate(event.told)
            found.perhaps[pair] += 1
        elif event.op is Op.OK:
            found.stored.add(pair)
            found.stored_at.append(event.t)
        elif event.op is Op.WRITTEN:
            found.stored.add(pair)
        elif event.op is Op.FAIL:
            found.perhaps[pair] -= 1
        elif event.op is Op.DELIVER:
            found.redelivered += event.attempt > 1
        elif event.op is Op.COMMIT:
            found.effect_at.append(event.t)
        elif event.op is Op.LETTER:
            found.letters[pair] = event.told

    def _note_fault(self, event: Event) -> None:
        fault = self._found.faults.setdefault(event.number, Struck())
        if event.op is Op.FAULT:
            fault.begun = event.t
        elif event.op is Op.FIRED:
            fault.fired = event.t
            fault.told = event.told
        elif event.op is Op.HEALED:
            fault.healed = event.t
        elif event.op is Op.ELECTED:
            fault.elected = event.t
        elif not fault.told:
            fault.told = event.told

    @staticmethod
    def _note_life(life: Life, event: Event) -> None:
        if event.op is Op.BEGUN:
            life.begun = event.t
            return
        life.ended, life.why = event.t, event.told
        life.code, life.took = int(event.counts.get("code", 0)), event.counts.get("seconds", 0.0)


_OF_MESSAGES: Final = frozenset({Op.START, Op.OK, Op.WRITTEN, Op.FAIL, Op.DELIVER, Op.COMMIT, Op.LETTER})


def _ledger(db: sqlite3.Connection) -> Ledger:
    marks = db.execute(f"SELECT key, digest FROM {INBOX}")  # noqa: S608 - a constant
    found = Ledger(effects={(key, bytes(digest).hex()[:DIGEST]) for key, digest in marks})
    for key, legs, amount in db.execute(
        "SELECT key, count(*), sum(amount) FROM posting GROUP BY key HAVING count(*) <> 2 OR sum(amount) <> 0"
    ):
        if legs > 2:
            found.twice.append(key)
        if legs < 2:
            found.half.append(key)
        if amount:
            found.uneven.append(key)
    found.wrong = [
        key
        for key, account, amount in db.execute("SELECT key, account, amount FROM posting WHERE account <> ?", (MINT,))
        if (said := settlement_of(key)).account != account or said.amount != amount
    ]
    marked, booked = f"SELECT key FROM {INBOX}", "SELECT key FROM posting"  # noqa: S608 - a constant
    found.unbooked = _keys(db, f"{marked} EXCEPT {booked}")
    found.unclaimed = _keys(db, f"{booked} EXCEPT {marked}")
    sent = "SELECT key FROM outbox GROUP BY key HAVING count(*) = 1"
    found.unsent = _keys(db, f"{marked} EXCEPT {sent}")
    [found.total] = db.execute("SELECT coalesce(sum(amount), 0) FROM posting").fetchone()
    sums = dict(db.execute("SELECT account, sum(amount) FROM posting GROUP BY account"))
    balances = dict(db.execute("SELECT account, amount FROM balance"))
    found.untrue = sorted(name for name in sums.keys() | balances.keys() if sums.get(name, 0) != balances.get(name, 0))
    triggers = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    found.guarded = triggers >= GUARDS
    return found


def _keys(db: sqlite3.Connection, query: str) -> list[str]:
    return [key for (key,) in db.execute(query)]
