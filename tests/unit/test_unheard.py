"""Which subjects a relay passes over, and when it asks again."""

from broker.exactly_once.unheard import Unheard


def test_a_subject_is_asked_now_and_then_until_somebody_answers():
    now = [0.0]
    unheard = Unheard(lambda: now[0])
    unheard.note("a")
    assert (bool(unheard), unheard.subjects, unheard.to_ask()) == (True, ("a",), ())
    now[0] = 2.0
    unheard.note("b")
    assert unheard.to_ask() == ("a",)
    unheard.note("a")
    assert unheard.to_ask() == ()
    unheard.forget(["a", "never heard of"])
    assert unheard.subjects == ("b",)
    unheard.forget(["b"])
    assert not unheard


def test_it_remembers_so_many_and_asks_some_at_a_time_all_in_their_turn():
    now = [0.0]
    unheard = Unheard(lambda: now[0])
    for number in range(1_500):
        unheard.note(str(number))
    assert unheard.subjects == tuple(map(str, range(500, 1_500)))
    now[0] = 10.0
    first = unheard.to_ask()
    assert 0 < len(first) < 100
    for subject in first:
        unheard.note(subject)
    assert not set(first) & set(unheard.to_ask())
