from __future__ import annotations

import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events import BATCH_BYTES, BATCH_COMMANDS, COMMAND_BURST, COMMAND_BYTES, Command, CommandBatch, View
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
            passed.append((f"r{room}", seq))
    taken = tick(door)
    assert {room: [seq for _, seq in lot] for room, lot in taken.items()} == {
        room: [seq for name, seq in passed if name == room] for room, _ in passed
    }
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
