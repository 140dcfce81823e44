"""What is concluded about a game loop that was held up, for everything that it and its controls can come to."""

import pytest

from loadtest.chaos.loops import Held, concluded, seen
from loadtest.chaos.plan import Limits

LIMITS = Limits(call=0.005, stall=0.020)
CALL, LATE = "one publish_nowait took 8.0 ms", "the loop was 27.8 ms late"
CALL_TOO = f"{CALL}, but so did plain arithmetic beside it (9.0 ms): the machine"
LATE_TOO = f"{LATE}, but so was an empty loop beside it (25.1 ms): the machine"
QUICK = "longest publish_nowait 1.0 ms"
PUNCTUAL = "p99.9 of the loop's lateness 3.0 ms"
JUST = "longest publish_nowait 5.0 ms; p99.9 of the loop's lateness 20.0 ms, an empty loop beside it 20.0 ms"
EMPTY, EMPTY_LATE = ", an empty loop beside it 2.0 ms", ", an empty loop beside it 25.1 ms"


@pytest.mark.parametrize(
    ("call", "plain", "stall", "idle", "held", "told"),
    [
        # call, arithmetic beside it, lateness, the empty loop's: ms; None: no empty loop
        (1, 1, 3, 2, True, f"{QUICK}; {PUNCTUAL}{EMPTY}"),
        (1, 1, 3, 25.1, True, f"{QUICK}; {PUNCTUAL}{EMPTY_LATE}"),
        (1, 9, 3, 2, True, f"{QUICK}; {PUNCTUAL}{EMPTY}"),
        (1, 9, 3, 25.1, True, f"{QUICK}; {PUNCTUAL}{EMPTY_LATE}"),
        (1, 1, 27.8, 2, False, LATE + EMPTY),
        (1, 1, 27.8, 25.1, None, f"{QUICK}; {LATE_TOO}"),
        (1, 9, 27.8, 2, False, LATE + EMPTY),
        (1, 9, 27.8, 25.1, None, f"{QUICK}; {LATE_TOO}"),
        (8, 1, 3, 2, False, CALL),
        (8, 1, 3, 25.1, False, CALL),
        (8, 9, 3, 2, None, f"{CALL_TOO}; {PUNCTUAL}{EMPTY}"),
        (8, 9, 3, 25.1, None, f"{CALL_TOO}; {PUNCTUAL}{EMPTY_LATE}"),
        (8, 1, 27.8, 2, False, f"{CALL}; {LATE}{EMPTY}"),
        (8, 1, 27.8, 25.1, False, f"{CALL}; {LATE_TOO}"),
        (8, 9, 27.8, 2, False, f"{CALL_TOO}; {LATE}{EMPTY}"),
        (8, 9, 27.8, 25.1, None, f"{CALL_TOO}; {LATE_TOO}"),
        (1, 1, 3, None, True, f"{QUICK}; {PUNCTUAL}"),
        (1, 1, 27.8, None, False, LATE),
        (8, 1, 27.8, None, False, f"{CALL}; {LATE}"),
        (8, 9, 3, None, None, f"{CALL_TOO}; {PUNCTUAL}"),
        (8, 9, 27.8, None, False, f"{CALL_TOO}; {LATE}"),
        # what is just good, and a control that is just good
        (5, 1, 20, 20, True, JUST),
        (1, 1, 27.8, 20, False, f"{LATE}, an empty loop beside it 20.0 ms"),
        # late beyond anything that the machine did
        (1, 1, 60, 25.1, False, f"the loop was 60.0 ms late{EMPTY_LATE}"),
    ],
)  # fmt: skip
def test_every_combination_comes_to_one_conclusion(call, plain, stall, idle, held, told):
    measured = Held(call / 1e3, call / 1e3, plain / 1e3, stall / 1e3, None if idle is None else idle / 1e3)
    found = concluded(measured, LIMITS)
    assert (found.number, found.held, found.told) == ("I8", held, told)


def test_who_calls_is_the_loop_and_who_only_keeps_time_is_the_empty_one():
    worker, room = {"rss": 1.0}, {"call_max": 0.001, "call_wall": 0.002, "plain_max": 0.003, "stall": 0.004}
    assert seen([worker, room, {"stall": 0.005}]) == Held(0.001, 0.002, 0.003, 0.004, 0.005)
    assert seen([room, worker]) == Held(0.001, 0.002, 0.003, 0.004, None)
    assert seen([{"stall": 0.005}, worker]) is None
