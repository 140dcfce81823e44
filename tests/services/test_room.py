from __future__ import annotations

import random

import msgspec

from services.events import BattleEnded, BattleState, Command, PlayerState, View
from services.game_room.commands import Ruling
from services.game_room.room import Phase, Room

PLAYERS = [f"p{n}" for n in range(1, 6)]


def room(*, seed: int = 7, battle_ticks: int = 60, epoch: int = 3) -> Room:
    return Room("r1", PLAYERS, seed=seed, epoch=epoch, tick_rate=30, battle_ticks=battle_ticks)


def play(each: Room, *, ticks: int, seed: int = 1) -> list[BattleEnded]:
    """Ticks with the same commands for the same seed; a result counts as stored three ticks later."""
    dice, ended, stored_in = random.Random(seed), [], 0
    seqs = dict.fromkeys(PLAYERS, 0)
    for tick in range(ticks):
        player = dice.choice(PLAYERS)
        seqs[player] += 1
        each.offer(
            player,
            Command(
                player=player,
                cmd_seq=seqs[player],
                client_tick=tick,
                kind=dice.choice(["move", "fire"]),
                dx=dice.choice([-1, 0, 1]),
                dy=dice.choice([-1, 0, 1]),
                target=dice.choice(PLAYERS),
            ),
        )
        result = each.tick(tick, now_ns=tick)
        if result is not None:
            ended.append(result)
            stored_in = 3
        elif stored_in:
            stored_in -= 1
            if not stored_in:
                each.stored()
    return ended


def test_the_same_seed_and_commands_give_the_same_battles():
    first, second = play(room(), ticks=300), play(room(), ticks=300)
    assert len(first) >= 3
    assert first == second
    assert play(room(seed=8), ticks=300) != first


def test_every_battle_has_its_own_id_and_complete_places():
    ended = play(room(), ticks=600)
    assert len({each.battle_id for each in ended}) == len(ended)
    assert ended[0].battle_id == "r1-3-1"
    for each in ended:
        assert [result.place for result in each.results] == [1, 2, 3, 4, 5]
        assert {result.player for result in each.results} == set(PLAYERS)
        scores = [result.score for result in each.results]
        assert scores == sorted(scores, reverse=True)
    assert any(result.score for each in ended for result in each.results)


def test_another_epoch_never_repeats_an_id():
    assert not {e.battle_id for e in play(room(epoch=1), ticks=300)} & {
        e.battle_id for e in play(room(epoch=2), ticks=300)
    }


def test_a_battle_lasts_its_ticks_within_a_quarter_and_ends_once():
    each = room(battle_ticks=100)
    ended = [result for tick in range(500) if (result := each.tick(tick, now_ns=tick))]
    assert len(ended) == 1
    assert 75 <= ended[0].ticks <= 125
    assert each.phase is Phase.FINISHING


def test_the_next_battle_begins_only_when_the_result_is_stored():
    each = room(battle_ticks=4)
    while not (ended := each.tick(each.tick_number + 1, now_ns=1)):
        pass
    assert each.battle_id == ended.battle_id
    assert each.state(began=2)["battle"]["phase"] == "finishing"
    each.stored()
    assert each.phase is Phase.RUNNING
    assert each.battle_id != ended.battle_id


def test_finish_ends_the_battle_with_the_next_tick_and_closes_when_stored():
    each = room(battle_ticks=10_000)
    assert each.tick(0, now_ns=0) is None
    each.finish()
    ended = each.tick(1, now_ns=5)
    assert ended is not None
    assert (ended.ticks, ended.ended_at) == (2, 5)
    each.stored()
    assert each.phase is Phase.CLOSED
    assert each.tick(2, now_ns=6) is None


def test_the_state_is_what_a_view_says_it_is():
    each = room()
    each.tick(0, now_ns=1)
    assert each.offer("p1", Command(player="p1", cmd_seq=4, client_tick=0, kind="move")) is Ruling.ACCEPTED
    wire = msgspec.json.encode(each.state(began=1_000))
    view = View(room="r1", epoch=3, tick=60, sent=0, state=msgspec.json.decode(wire))
    assert view.players == PLAYERS
    assert [view.acked(player) for player in (*PLAYERS, "stranger")] == [4, 0, 0, 0, 0, 0]
    assert view.due == 1_000 + 2_000_000_000
    assert msgspec.convert(view.battle, BattleState) == BattleState(
        id="r1-3-1", phase="running", began=1_000, tick_rate=30
    )
    assert msgspec.convert(view.state["player.p1"], PlayerState).ack == 4
    assert len(wire) < 1000


def test_moving_stays_in_the_arena():
    each = room(battle_ticks=1000)
    each.offer("p1", Command(player="p1", cmd_seq=1, client_tick=0, kind="move", dx=1, dy=-1))
    for tick in range(400):
        each.tick(tick, now_ns=tick)
    walker = each.state(began=0)["player.p1"]
    assert (walker["x"], walker["y"]) == (1000, 0)
