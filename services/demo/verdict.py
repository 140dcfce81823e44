"""Judges a run by its evidence: the rules only. No ``await``, no database and no service's code in this file.

The prizes stand here a second time on purpose: who audits a ledger does not ask it what is right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.events import BattleEnded

OK: Final = "OK: every battle settled exactly once"

_PRIZES: Final = (100, 60, 40, 25, 15, 10, 5)
_POINTS_PER_COIN: Final = 10
_NAMED: Final = 3
_REASONS: Final = 6


class Copy(NamedTuple):
    """A message of the settlement stream, with its idempotency key."""

    sequence: int
    key: str | None
    ended: BattleEnded


class Entry(NamedTuple):
    """A line of the ledger."""

    tx: str
    account: str
    currency: str
    amount: int


class Told(NamedTuple):
    """A record of the audit stream: of which battle it tells, and what it says was paid."""

    battle: str
    entries: tuple[Entry, ...]


class Kill(NamedTuple):
    """What was killed half-way: whether it ran until then, and how many messages it or its peer held unsettled."""

    worker: str
    running: bool
    in_hand: int


@dataclass(slots=True)
class Evidence:
    """What was found, unjudged.

    Attributes:
        ended: battle ids as rooms wrote them down.
        copies: the settlement stream.
        settlements: battle ids in the ledger.
        entries: the ledger's lines.
        applied: keys of messages that the inbox knows, those that changed nothing included.
        told: the audit stream.
        dead_letters: what gave up, with the reason.
        standings: player and score.
        kill: ``None`` when no worker was meant to be killed.
        troubles: anything else that must not happen, in words.
    """

    ended: list[str]
    copies: list[Copy]
    settlements: list[str]
    entries: list[Entry]
    applied: list[str]
    told: list[Told]
    dead_letters: list[str]
    standings: list[tuple[str, int]]
    kill: Kill | None
    troubles: list[str] = field(default_factory=list)


def judge(evidence: Evidence) -> list[str]:
    """Why the run failed; empty when every battle was settled exactly once."""
    return [
        *_judge_run(evidence),
        *_judge_stream(evidence),
        *_judge_settlements(evidence),
        *_judge_entries(evidence),
        *_judge_records(evidence),
        *_judge_standings(evidence),
        *evidence.troubles,
    ]


def sentence(reasons: list[str]) -> str:
    """The verdict line."""
    if not reasons:
        return OK
    more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
    return f"FAILED: {'; '.join(reasons[:_REASONS])}{more}"


def _judge_run(evidence: Evidence) -> Iterator[str]:
    if not evidence.ended:
        yield "void: no battle ended"
    kill = evidence.kill
    if kill is not None and not kill.running:
        yield f"void: {kill.worker} was not running when it was to be killed"
    elif kill is not None and not kill.in_hand:
        yield f"void: {kill.worker} had nothing in hand when it was killed"


def _judge_stream(evidence: Evidence) -> Iterator[str]:
    """Every battle that ended is in the stream, always with the same result, and nothing else is."""
    twice = [battle for battle, count in Counter(evidence.ended).items() if count > 1]
    yield from _named("ended twice", twice)
    ended = set(evidence.ended)
    results: dict[str, BattleEnded] = {}
    for copy in evidence.copies:
        first = results.setdefault(copy.ended.battle_id, copy.ended)
        if first != copy.ended:
            yield f"{copy.ended.battle_id} is in the stream with two results"
    yield from _named("not in the stream", ended - results.keys())
    yield from _named("in the stream though they never ended", results.keys() - ended)
    yield from _named("dead letters", evidence.dead_letters)


def _judge_settlements(evidence: Evidence) -> Iterator[str]:
    """One settlement per ended battle, none without; every stored copy was settled or absorbed."""
    ended = set(evidence.ended)
    settled = Counter(evidence.settlements)
    yield from _named("not settled", ended - settled.keys())
    yield from _named("settled more than once", (battle for battle, count in settled.items() if count > 1))
    yield from _named("settled though they never ended (ghosts)", settled.keys() - ended)
    applied = set(evidence.applied)
    unseen = [copy.sequence for copy in evidence.copies if copy.key not in applied]
    yield from _named("stored messages neither settled nor absorbed", map(str, unseen))


def _judge_entries(evidence: Evidence) -> Iterator[str]:
    """Money: zero per battle and in total, paid for settled battles only, and exactly what the rules say."""
    books: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    sums: Counter[tuple[str, str]] = Counter()
    for tx, account, currency, amount in evidence.entries:
        books[tx].append((account, currency, amount))
        sums[tx, currency] += amount
    yield from _named("entries do not add up to zero", (tx for (tx, _), amount in sums.items() if amount))
    total = sum(sums.values())
    if total:
        yield f"the ledger adds up to {total}, not zero"
    settled = set(evidence.settlements)
    yield from _named("entries without a settlement (ghosts)", books.keys() - settled)
    results = {copy.ended.battle_id: copy.ended for copy in evidence.copies}
    wrong = [
        battle
        for battle, ended in results.items()
        if battle in settled and sorted(books.get(battle, ())) != sorted(_owed(ended))
    ]
    yield from _named("not paid what the rules say", wrong)


def _judge_records(evidence: Evidence) -> Iterator[str]:
    """The audit was told of each settlement once, with what the ledger says, and of nothing else."""
    books: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        books[entry.tx].append(entry)
    settled, told = set(evidence.settlements), Counter(each.battle for each in evidence.told)
    yield from _named("not told to the audit", settled - told.keys())
    yield from _named("told to the audit more than once", (battle for battle, count in told.items() if count > 1))
    yield from _named("told to the audit though they were not settled (ghosts)", told.keys() - settled)
    wrong = {each.battle for each in evidence.told if sorted(each.entries) != sorted(books[each.battle])}
    yield from _named("told to the audit otherwise than in the ledger", wrong & settled)


def _judge_standings(evidence: Evidence) -> Iterator[str]:
    """Points: the sum over each ended battle once."""
    expected: Counter[str] = Counter()
    for ended in {copy.ended.battle_id: copy.ended for copy in evidence.copies}.values():
        for result in ended.results:
            expected[result.player] += result.score
    shown = dict(evidence.standings)
    wrong = [player for player in expected.keys() | shown.keys() if expected.get(player) != shown.get(player)]
    yield from _named("players whose points differ from their battles", wrong)


def _owed(ended: BattleEnded) -> list[tuple[str, str, int]]:
    paid = [
        (
            f"player:{result.player}",
            "coin",
            _PRIZES[min(result.place, len(_PRIZES)) - 1] + result.score // _POINTS_PER_COIN,
        )
        for result in ended.results
    ]
    return [*paid, ("sys:mint:battle", "coin", -sum(amount for _, _, amount in paid))]


def _named(what: str, which: Iterable[str]) -> Iterator[str]:
    found = sorted(which)
    if found:
        more = ", ..." if len(found) > _NAMED else ""
        yield f"{len(found)} {what} ({', '.join(found[:_NAMED])}{more})"
