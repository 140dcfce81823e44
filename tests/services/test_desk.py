"""What arrives on the wire of all rooms: which room's it is, whose, and whether it is a command at all."""

from __future__ import annotations

import msgspec
import pytest

from broker import InvalidSubject, Subject
from services.events import (
    BATCH_BYTES,
    BATCH_COMMANDS,
    BATTLE_COMMANDS,
    COMMAND_BYTES,
    Command,
    battle_batch,
    battle_command,
    command_sender,
)
from services.game_room.commands import Ruling
from services.game_room.desk import Desk
from services.game_room.room import Room


def room(name: str = "r1") -> Room:
    return Room(name, ["p1", "p2"], seed=1, epoch=1, tick_rate=30, battle_ticks=100)


def command(seq: int, player: str = "p1", **changes: object) -> Command:
    return Command(**({"player": player, "cmd_seq": seq, "client_tick": 0, "kind": "move"} | changes))


def batch(*commands: tuple[str, Command], due: int = 0) -> bytes:
    return msgspec.json.encode({"v": 1, "due": due, "commands": commands})


@pytest.fixture
def rooms():
    return [room("r1"), room("r2")]


@pytest.fixture
def desk(rooms):
    return Desk(rooms)


def test_one_pattern_covers_players_and_gateways_and_no_player_can_be_taken_for_a_gateway():
    for subject in (battle_command("r1", "p1"), battle_batch("r1", "g1")):
        assert Subject.match(BATTLE_COMMANDS, subject)
    assert command_sender(battle_command("r1", "g1")) == ("r1", "g1")
    assert command_sender(battle_batch("r1", "g1")) == ("r1", "@g1")
    with pytest.raises(InvalidSubject):
        battle_command("r1", "@g1")


def test_every_room_gets_its_own_commands_in_the_order_they_came(desk, rooms):
    sent = [("p2", command(1, "p2")), ("p1", command(1)), ("p2", command(2, "p2"))]
    desk.take(battle_batch("r1", "g1"), batch(*sent), now_ns=0)
    desk.take(battle_batch("r2", "g1"), batch(("p1", command(9))), now_ns=0)
    assert rooms[0].intake.take() == sent
    assert [taken.cmd_seq for _, taken in rooms[1].intake.take()] == [9]
    assert (desk.batches, desk.direct, desk.elsewhere) == (2, 0, 0)


def test_a_player_s_own_message_carries_one_command(desk, rooms):
    desk.take(battle_command("r1", "p1"), msgspec.json.encode(command(1)), now_ns=0)
    assert rooms[0].intake.counts == {Ruling.ACCEPTED: 1}
    assert desk.direct == 1


def test_a_batch_on_a_player_s_subject_is_no_command(desk, rooms):
    """Or any player could speak for all others."""
    desk.take(battle_command("r1", "p1"), batch(("p2", command(1, "p2"))), now_ns=0)
    assert rooms[0].intake.counts == {Ruling.MALFORMED: 1}


def test_commands_for_rooms_of_other_processes_are_counted_and_left_alone(desk, rooms):
    desk.take(battle_batch("r3", "g1"), b"not even looked at", now_ns=0)
    assert desk.elsewhere == 1
    assert not rooms[0].intake.counts
    assert not rooms[1].intake.counts


@pytest.mark.parametrize(
    ("sender", "command_given"),
    [("p1", command(1, "p2")), ("stranger", command(1, "stranger")), ("p1", command(1, "@g1".strip("@")))],
)
def test_whoever_a_command_says_it_is_from_the_gateway_s_word_counts(desk, rooms, sender, command_given):
    desk.take(battle_batch("r1", "g1"), batch((sender, command_given)), now_ns=0)
    assert rooms[0].intake.counts == {Ruling.FORGED: 1}


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"[" * 5_000,
        b"\xff\xfe",
        b"{}",
        b'{"v":1,"due":0,"commands":[["p1",{"player":"p1"}]]}',
        batch(*[("p1", command(1))] * (BATCH_COMMANDS + 1)),
    ],
    ids=["no JSON", "deep", "no text", "empty", "no command", "too many"],
)
def test_a_gateway_s_message_that_cannot_be_read_is_malformed(desk, rooms, body):
    desk.take(battle_batch("r1", "g1"), body, now_ns=0)
    assert rooms[0].intake.counts == {Ruling.MALFORMED: 1}


@pytest.mark.parametrize("body", [b"garbage", b"null", b'{"player":"p1","cmd_seq":-1,"client_tick":0,"kind":"move"}'])
def test_a_player_s_message_that_is_no_command_is_malformed(desk, rooms, body):
    desk.take(battle_command("r1", "p1"), body, now_ns=0)
    assert rooms[0].intake.counts == {Ruling.MALFORMED: 1}


def test_what_is_too_large_is_not_read(desk, rooms):
    large = msgspec.json.encode(command(1)) + b" " * COMMAND_BYTES
    desk.take(battle_command("r1", "p1"), large, now_ns=0)
    desk.take(battle_batch("r1", "g1"), batch(("p1", command(1))) + b" " * BATCH_BYTES, now_ns=0)
    assert rooms[0].intake.counts == {Ruling.OVERSIZED: 2}


def test_the_largest_batch_of_largest_commands_passes():
    players = [f"{n:064}" for n in range(BATCH_COMMANDS)]
    full = Room("r3", players, seed=1, epoch=1, tick_rate=30, battle_ticks=100)
    shape = {"client_tick": 0, "kind": "fire", "target": "x" * 64}
    each = [(player, command(1, player, **shape)) for player in players]
    padded = [(player, msgspec.Raw(msgspec.json.encode(given).ljust(COMMAND_BYTES))) for player, given in each]
    Desk([full]).take(battle_batch("r3", "g1"), msgspec.json.encode({"v": 1, "due": 0, "commands": padded}), now_ns=0)
    assert full.intake.counts == {Ruling.ACCEPTED: BATCH_COMMANDS}


def test_how_long_a_batch_took_is_told_from_when_it_was_due(desk):
    desk.take(battle_batch("r1", "g1"), batch(due=1_000_000_000), now_ns=1_007_300_000)
    assert desk.hops.counts() == {73: 1}
