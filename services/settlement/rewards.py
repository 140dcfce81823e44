"""From a battle's result to money and points: the rules only. No ``await``, no clock, no database in this file.

A version of the rules never changes once battles were paid by it; a new rule is a new version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.events import LeaderboardUpdate, Posting, SettlementRecord, player_account

if TYPE_CHECKING:
    from services.events import BattleEnded

COIN: Final = "coin"
MINT: Final = "sys:mint:battle"
"""Where new money comes from; its balance is minus all that was ever paid."""
BOARD: Final = "season"

_PRIZES: Final = {1: (100, 60, 40, 25, 15, 10, 5)}
"""Rules version -> coins for places one to last; further places get the last prize."""
_POINTS_PER_COIN: Final = {1: 10}
_MOST_COINS: Final = 2**53
"""In one battle: what every reader of its audit record keeps exact."""


class UnpayableResult(ValueError):
    """No rules turn this result into rewards; trying again will not help."""


def rewards(ended: BattleEnded) -> tuple[Posting, ...]:
    """What pays a battle: a line for each player, and the mint's. Whole coins that add up to zero.

    Raises:
        UnpayableResult: unknown rules, no players, a player twice, places that are not 1, 2, 3 ..., or scores beyond
            all measure.
    """
    prizes = _PRIZES.get(ended.rules_version)
    if prizes is None:
        raise UnpayableResult(f"{ended.battle_id}: no rules of version {ended.rules_version}")
    ranked = sorted(ended.results, key=lambda result: result.place)
    if not ranked or [result.place for result in ranked] != list(range(1, len(ranked) + 1)):
        raise UnpayableResult(f"{ended.battle_id}: places are not 1 to {len(ranked)}")
    if len({result.player for result in ranked}) != len(ranked):
        raise UnpayableResult(f"{ended.battle_id}: a player stands in it twice")
    per_coin = _POINTS_PER_COIN[ended.rules_version]
    paid = tuple(
        Posting(
            account=player_account(result.player),
            currency=COIN,
            amount=prizes[min(result.place, len(prizes)) - 1] + result.score // per_coin,
        )
        for result in ranked
    )
    total = sum(line.amount for line in paid)
    if total > _MOST_COINS:
        raise UnpayableResult(f"{ended.battle_id}: its scores would be worth {total} coins")
    return (*paid, Posting(account=MINT, currency=COIN, amount=-total))


def settled(ended: BattleEnded, paid: tuple[Posting, ...], at: int) -> SettlementRecord:
    """What the audit is told of a battle that was paid; ``at``: nanoseconds since the Unix epoch."""
    return SettlementRecord(
        record_id=f"settle:{ended.battle_id}",
        at=at,
        actor=f"room:{ended.room}",
        action="settle",
        about=(f"battle:{ended.battle_id}",),
        postings=paid,
    )


def leaderboard_updates(ended: BattleEnded) -> tuple[LeaderboardUpdate, ...]:
    """The points a battle brings, an event per player; its id follows from the battle's."""
    return tuple(
        LeaderboardUpdate(
            event_id=f"{ended.battle_id}:{result.player}",
            board=BOARD,
            player=result.player,
            points=result.score,
            battle_id=ended.battle_id,
            event_time=ended.ended_at,
        )
        for result in ended.results
    )
