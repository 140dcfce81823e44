from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.events import COMMAND_BURST, COMMAND_RATE, COMMAND_WINDOW, PER_TICK, Command, CommandNumbers
from services.game_room.commands import OLDEST, QUEUE_LIMIT, Intake, Ruling

TICK_RATE = 30
PLAYERS = [f"p{n}" for n in range(20)]


def command(seq: int, player: str = "p0", *, tick: int = 0) -> Command:
    return Command(player=player, cmd_seq=seq, client_tick=tick, kind="move", dx=1)


def intake() -> Intake:
    return Intake(PLAYERS, tick_rate=TICK_RATE)


def test_only_growing_numbers_are_taken_and_gaps_are_fine():
    desk = intake()
    rulings = [desk.offer("p0", command(seq), tick=0) for seq in (1, 2, 5, 5, 2, 3, 6)]
    assert rulings == [
        Ruling.ACCEPTED,
        Ruling.ACCEPTED,
        Ruling.ACCEPTED,
        Ruling.DUPLICATE,
        Ruling.DUPLICATE,
        Ruling.OUT_OF_ORDER,
        Ruling.ACCEPTED,
    ]
    assert desk.acks == {"p0": 6}
    assert [taken.cmd_seq for _, taken in desk.take()] == [1, 2, 5, 6]


def test_a_repeat_from_beyond_the_window_cannot_be_told_from_one_out_of_order():
    desk = intake()
    desk.offer("p0", command(1), tick=0)
    desk.offer("p0", command(1 + COMMAND_WINDOW), tick=0)
    assert desk.offer("p0", command(1), tick=0) is Ruling.OUT_OF_ORDER


def test_a_number_too_far_ahead_is_over_the_window_and_does_not_lock_its_player_out():
    desk = intake()
    assert desk.offer("p0", command(COMMAND_WINDOW + 1), tick=0) is Ruling.OVER_WINDOW
    assert desk.offer("p0", command(2**53), tick=0) is Ruling.OVER_WINDOW
    assert desk.offer("p0", command(COMMAND_WINDOW), tick=0) is Ruling.ACCEPTED
    assert desk.counts == {Ruling.OVER_WINDOW: 2, Ruling.ACCEPTED: 1}


def test_a_client_that_lost_more_than_a_window_is_heard_again():
    desk, numbers = intake(), CommandNumbers()
    numbers.seen(1, 0)
    assert desk.offer("p0", command(numbers.next()), tick=0) is Ruling.ACCEPTED
    numbers.seen(1, desk.acks["p0"])
    lost = [numbers.next() for _ in range(COMMAND_WINDOW)]
    assert lost == list(range(2, COMMAND_WINDOW + 2))
    assert desk.offer("p0", command(numbers.next()), tick=0) is Ruling.ACCEPTED


def test_a_new_owner_of_the_room_knows_no_old_numbers():
    numbers = CommandNumbers()
    numbers.seen(1, 0)
    for _ in range(10):
        numbers.next()
    numbers.seen(1, 500)
    assert numbers.next() == 501
    numbers.seen(2, 0)
    assert numbers.next() == 1
    numbers.seen(1, 600)  # a frame of the old owner, late
    assert numbers.next() == 2


def test_a_view_older_than_ten_ticks_is_late():
    desk = intake()
    assert desk.offer("p0", command(1, tick=99 - OLDEST), tick=100) is Ruling.LATE
    assert desk.offer("p0", command(2, tick=100 - OLDEST), tick=100) is Ruling.ACCEPTED


def test_a_command_for_someone_else_or_from_a_stranger_is_forged_and_costs_the_victim_nothing():
    desk = intake()
    assert desk.offer("p0", command(1, "p1"), tick=0) is Ruling.FORGED
    assert desk.offer("stranger", command(1, "stranger"), tick=0) is Ruling.FORGED
    assert desk.offer("p1", command(1, "p1"), tick=0) is Ruling.ACCEPTED
    assert desk.counts == {Ruling.FORGED: 2, Ruling.ACCEPTED: 1}


def test_a_burst_is_allowed_then_sixty_a_second():
    desk = intake()
    rulings = [desk.offer("p0", command(seq), tick=0) for seq in range(1, COMMAND_BURST + 3)]
    assert rulings == [Ruling.ACCEPTED] * COMMAND_BURST + [Ruling.OVER_RATE] * 2
    accepted, seq = 0, COMMAND_BURST
    for _ in range(TICK_RATE):
        desk.take()
        for _ in range(5):
            seq += 1
            accepted += desk.offer("p0", command(seq), tick=0) is Ruling.ACCEPTED
    assert accepted == COMMAND_RATE


def test_repeats_cost_as_much_as_commands():
    desk = intake()
    desk.offer("p0", command(1), tick=0)
    rulings = [desk.offer("p0", command(1), tick=0) for _ in range(COMMAND_BURST)]
    assert rulings[-1] is Ruling.OVER_RATE


def test_a_room_holds_128_commands_and_counts_the_rest():
    desk = intake()
    rulings = [desk.offer(player, command(seq, player), tick=0) for player in PLAYERS for seq in range(1, 9)]
    assert rulings.count(Ruling.ACCEPTED) == len(desk) == QUEUE_LIMIT
    assert desk.counts[Ruling.OVERFLOW] == len(rulings) - QUEUE_LIMIT


def test_a_tick_applies_four_of_a_player_and_the_rest_wait_in_order():
    desk = intake()
    for seq in range(1, 7):
        desk.offer("p0", command(seq), tick=0)
    desk.offer("p1", command(1, "p1"), tick=0)
    first = desk.take()
    assert [(player, taken.cmd_seq) for player, taken in first] == [("p0", n) for n in (1, 2, 3, 4)] + [("p1", 1)]
    assert len(first) <= PER_TICK + 1
    assert [taken.cmd_seq for _, taken in desk.take()] == [5, 6]
    assert desk.take() == []


def test_tokens_come_back_with_every_tick_also_for_who_was_quiet_but_no_more_than_a_burst():
    desk = intake()
    for seq in range(1, COMMAND_BURST + 1):
        desk.offer("p0", command(seq), tick=0)
    for _ in range(1000):
        desk.take()
    rulings = [desk.offer("p0", command(seq), tick=0) for seq in range(100 - 40, 100)]
    assert rulings == [Ruling.ACCEPTED] * COMMAND_BURST + [Ruling.OVER_RATE] * 20


@given(st.lists(st.tuples(st.sampled_from(PLAYERS[:3]), st.integers(1, 90)), max_size=300))
def test_whatever_comes_each_player_s_commands_are_applied_once_and_in_order(offers):
    desk, applied = intake(), {player: [] for player in PLAYERS}
    for index, (player, seq) in enumerate(offers):
        desk.offer(player, command(seq, player), tick=0)
        if index % 3 == 0:
            for owner, taken in desk.take():
                applied[owner].append(taken.cmd_seq)
    while len(desk):
        for owner, taken in desk.take():
            applied[owner].append(taken.cmd_seq)
    for numbers in applied.values():
        assert numbers == sorted(set(numbers))
    assert sum(desk.counts.values()) == len(offers)
    assert sum(map(len, applied.values())) == desk.counts[Ruling.ACCEPTED]
