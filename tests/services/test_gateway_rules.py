from __future__ import annotations

import logging
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events import (
    BATCH_BYTES,
    BATCH_COMMANDS,
    COMMAND_BURST,
    COMMAND_BYTES,
    COMMAND_RATE,
    PER_TICK,
    Command,
    CommandBatch,
    View,
)
from services.gateway.door import TURNS, Door, Passing
from services.gateway.newest import Newest
from services.gateway.sessions import GatewayFull, Session, Sessions


def raw(seq: int = 1, player: str = "p1", **changes: object) -> bytes:
    return msgspec.json.encode({"player": player, "cmd_seq": seq, "client_tick": 0, "kind": "move"} | changes)


def tick(door: Door) -> dict[str, list[tuple[str, int]]]:
    """Room to players and numbers, of one whole tick; a room that comes twice is an error."""
    taken: dict[str, list[tuple[str, int]]] = {}
    for turn in range(TURNS):
        for room, commands in door.take(turn):
            assert room not in taken
            taken[room] = [(player, msgspec.json.decode(each)["cmd_seq"]) for player, each in commands]
    return taken


def view(number: int = 1, room: str = "r1") -> View:
    return View(room=room, epoch=1, tick=number, sent=0, state={})


def test_a_tick_has_one_lot_for_each_room_in_the_order_the_commands_came():
    door = Door()
    for room, player, seq in (("r1", "p1", 1), ("r2", "p1", 1), ("r1", "p2", 7), ("r1", "p1", 2)):
        assert door.offer(room, player, raw(seq, player)) is Passing.PASSED
    assert tick(door) == {"r1": [("p1", 1), ("p2", 7), ("p1", 2)], "r2": [("p1", 1)]}
    assert tick(door) == {}


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 3)), max_size=300))
def test_whatever_is_offered_passes_once_and_in_order_or_is_counted(offers):
    door, passed = Door(), []
    for seq, (room, player) in enumerate(offers, 1):
        if door.offer(f"r{room}", f"p{player}", raw(seq, f"p{player}")) is Passing.PASSED:
            passed.append((f"r{room}", f"p{player}", seq))
    taken = []
    while len(door):
        lots = tick(door)
        assert max(Counter((room, name) for room, lot in lots.items() for name, _ in lot).values()) <= PER_TICK
        taken += [(room, name, seq) for room, lot in lots.items() for name, seq in lot]
    assert sorted(taken) == sorted(passed)
    for room, name, _ in passed:
        numbers = [seq for each, whose, seq in taken if (each, whose) == (room, name)]
        assert numbers == sorted(numbers)
    assert sum(door.counts.values()) == len(offers)


def test_a_command_in_another_player_s_name_stays_at_the_door():
    door = Door()
    assert door.offer("r1", "p1", raw(player="p2")) is Passing.FORGED
    assert (tick(door), door.counts) == ({}, {Passing.FORGED: 1})


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"{}", raw(0), raw(kind="dance"), raw(extra=1), raw() + b'],["p2",', b"[" * 400, b"\xff"],
)
def test_what_is_no_command_cannot_spoil_a_message_with_others_commands(body):
    door = Door()
    door.offer("r1", "p2", raw(player="p2"))
    assert door.offer("r1", "p1", body) is Passing.MALFORMED
    assert tick(door) == {"r1": [("p2", 1)]}
    assert door.counts == {Passing.PASSED: 1, Passing.MALFORMED: 1}


def test_what_is_too_large_is_not_read():
    door = Door()
    assert door.offer("r1", "p1", raw().ljust(COMMAND_BYTES)) is Passing.PASSED
    assert door.offer("r1", "p1", raw(2).ljust(COMMAND_BYTES + 1)) is Passing.OVERSIZED
    assert door.counts == {Passing.PASSED: 1, Passing.OVERSIZED: 1}


def test_one_player_cannot_take_the_room_of_all():
    door = Door()
    for seq in range(1, 1000):
        door.offer("r1", "p1", raw(seq))
    assert door.offer("r1", "p2", raw(player="p2")) is Passing.PASSED
    assert door.counts == {Passing.PASSED: COMMAND_BURST + 1, Passing.FLOODED: 999 - COMMAND_BURST}


def test_players_who_flood_do_not_shut_the_others_out():
    door = Door()
    for n in range(90):
        for bot in range(7):
            for seq in range(20):
                door.offer("r1", f"bot{bot}", raw(20 * n + seq + 1, f"bot{bot}"))
        assert door.offer("r1", "alice", raw(n + 1, "alice")) is Passing.PASSED
        [lot] = tick(door).values()
        assert ("alice", n + 1) in lot
        assert max(Counter(player for player, _ in lot).values()) <= PER_TICK


def test_a_burst_waits_for_the_messages_after_it_and_then_sixty_a_second_pass():
    door = Door(tick_rate=30)
    for seq in range(1, COMMAND_BURST + 1):
        assert door.offer("r1", "p1", raw(seq)) is Passing.PASSED
    assert door.offer("r1", "p1", raw(99)) is Passing.FLOODED
    lots = [tick(door).get("r1", []) for _ in range(6)]
    assert [len(lot) for lot in lots] == [PER_TICK] * 5 + [0]
    assert [seq for lot in lots for _, seq in lot] == list(range(1, COMMAND_BURST + 1))
    for _ in range(30):
        tick(door)
    passed = 0
    for _ in range(90):
        passed += sum(door.offer("r1", "p1", raw(n + 1)) is Passing.PASSED for n in range(5))
        tick(door)
    assert passed == COMMAND_BURST + 3 * COMMAND_RATE - COMMAND_RATE // 30


def test_who_is_forgotten_had_a_full_burst_and_memory_does_not_grow_with_the_names_seen():
    door = Door(tick_rate=30)
    most = 0
    for n in range(3000):
        door.offer(f"r{n}", "eve", raw(player="eve"))
        door.offer("r1", "p1", b"junk")
        tick(door)
        most = max(most, len(door._buckets))
    assert most <= 50
    assert door.counts[Passing.MALFORMED] == 3000
    for _ in range(COMMAND_BURST):
        door.offer("r1", "p1", raw())
    assert door.offer("r1", "p1", raw()) is Passing.FLOODED


def test_turns_left_out_are_time_too():
    door = Door(tick_rate=30)
    for _ in range(COMMAND_BURST):
        door.offer("r1", "p1", raw())
    door.take(15 * TURNS)
    assert [door.offer("r1", "p1", raw()) for _ in range(COMMAND_BURST + 1)][-2:] == [Passing.PASSED, Passing.FLOODED]


def test_what_is_no_command_of_the_player_s_is_not_admitted_and_counted():
    door = Door()
    assert [door.admits("p1", body) for body in (raw(), b"junk", raw(player="p2"), b" " * 600)] == [True] + [False] * 3
    assert door.counts == {Passing.MALFORMED: 1, Passing.FORGED: 1, Passing.OVERSIZED: 1}
    assert len(door) == 0


def test_a_message_holds_128_commands_and_the_rest_are_counted():
    door = Door()
    for n in range(BATCH_COMMANDS + 5):
        door.offer("r1", f"p{n}", raw(player=f"p{n}").ljust(COMMAND_BYTES))
    assert door.counts == {Passing.PASSED: BATCH_COMMANDS, Passing.OVERFLOW: 5}
    [(_, commands)] = [lot for turn in range(TURNS) for lot in door.take(turn)]
    body = msgspec.json.encode({"v": 1, "due": 0, "commands": commands})
    assert len(body) <= BATCH_BYTES
    assert len(msgspec.json.decode(body, type=CommandBatch).commands) == BATCH_COMMANDS


def test_a_client_s_bytes_reach_the_room_as_they_are():
    door = Door()
    sent = Command(player="p1", cmd_seq=3, client_tick=8, kind="fire", target="p2")
    door.offer("r1", "p1", msgspec.json.format(msgspec.json.encode(sent)))
    [(_, commands)] = [lot for turn in range(TURNS) for lot in door.take(turn)]
    body = msgspec.json.encode({"v": 1, "due": 5, "commands": commands})
    assert msgspec.json.decode(body, type=CommandBatch) == CommandBatch(due=5, commands=(("p1", sent),))


def test_turns_spread_rooms_over_a_tick():
    door = Door()
    for n in range(400):
        door.offer(f"room-{n}", "p1", raw())
    sizes = [len(door.take(turn)) for turn in range(TURNS)]
    assert sum(sizes) == 400
    assert max(sizes) < 400 / TURNS * 2


# -- sessions


@pytest.fixture
def gate():
    """Sessions for three players at most, and how to join them."""
    sessions, door = Sessions(limit=3), Door()

    def join(room: str, player: str, see=lambda _: None) -> Session:
        session = Session(sessions, door, room, player, see)
        sessions.add(session)
        return session

    return sessions, door, join


def test_everybody_in_the_room_sees_it_and_nobody_else(gate):
    sessions, _, join = gate
    seen = []
    join("r1", "p1", lambda each: seen.append(("p1", each.tick)))
    join("r1", "p2", lambda each: seen.append(("p2", each.tick)))
    join("r2", "p3", lambda each: seen.append(("p3", each.tick)))
    assert (sessions.show(view(4)), sessions.show(view(5, "r3"))) == (2, 0)
    assert seen == [("p1", 4), ("p2", 4)]


def test_who_fails_to_look_costs_nobody_else_a_frame(gate, caplog):
    sessions, _, join = gate
    seen = []
    join("r1", "p1", lambda _: 1 / 0)
    join("r1", "p2", seen.append)
    with caplog.at_level(logging.CRITICAL, "services.gateway"):
        sessions.show(view())
    assert (len(seen), sessions.errors) == (1, 1)


def test_who_leaves_while_being_shown_a_frame_does_not_disturb_it(gate):
    sessions, _, join = gate
    seen = []
    first = join("r1", "p1", lambda _: first.leave())
    join("r1", "p2", seen.append)
    assert sessions.show(view()) == 2
    assert (len(seen), len(sessions)) == (1, 1)


def test_the_newest_connection_of_a_player_is_theirs(gate):
    sessions, door, join = gate
    seen = []
    old = join("r1", "p1", lambda _: seen.append("old"))
    new = join("r1", "p1", lambda _: seen.append("new"))
    sessions.show(view())
    assert (seen, len(sessions)) == (["new"], 1)
    assert old.command(raw()) is None
    old.leave()
    assert new.command(raw()) is Passing.PASSED
    assert door.counts == {Passing.PASSED: 1}


def test_a_gateway_takes_as_many_as_it_takes_and_places_become_free(gate):
    sessions, _, join = gate
    first = join("r1", "p1")
    join("r1", "p2")
    join("r2", "p1")
    with pytest.raises(GatewayFull, match="takes 3 players"):
        join("r2", "p2")
    join("r1", "p1").leave()
    first.leave()
    join("r2", "p2")
    assert len(sessions) == 3


# -- a slow connection


async def test_a_slow_connection_gets_the_newest_and_counts_the_rest():
    newest = Newest()
    for number in range(1, 6):
        newest.put(view(number))
    assert (await anext(newest)).tick == 5
    assert newest.superseded == 4
    newest.put(view(6))
    newest.close()
    assert [each.tick async for each in newest] == [6]
