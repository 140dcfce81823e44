"""Routing against a matcher that looks at every subscription, and what a log keeps against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from broker.backends.memory.log import Sequences, Stored, StreamLog
from broker.backends.memory.routing import Subscription, SubscriptionTable
from broker.contracts.subjects import matches

tokens = st.sampled_from(["a", "b", "c", "aa"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda front, rest: ".".join([*front, *rest]),
    st.lists(st.one_of(tokens, st.just("*")), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
) | st.just(">")


@given(
    st.lists(st.tuples(patterns, st.sampled_from([None, "g", "h"])), max_size=12),
    st.lists(subjects, min_size=1, max_size=6),
    st.data(),
)
def test_a_route_is_every_match_and_one_of_each_group(declared, published, data):
    table = SubscriptionTable()
    live = [Subscription(pattern, lambda _: None, queue) for pattern, queue in declared]
    for each in live:
        table.add(each)
    for subject in published:
        if live and data.draw(st.booleans()):
            leaving = data.draw(st.sampled_from(live))
            live.remove(leaving)
            table.remove(leaving)
            table.remove(leaving)
        expected = [each for each in live if matches(each.pattern, subject)]
        got = list(table.route(subject).receivers())
        assert len(set(got)) == len(got)
        assert {each for each in got if each.queue is None} == {each for each in expected if each.queue is None}
        assert sorted(each.queue for each in got if each.queue) == sorted(
            {each.queue for each in expected if each.queue}
        )
        assert set(got) <= set(expected)


@given(st.lists(patterns, min_size=1, max_size=8))
def test_nothing_stays_in_the_tree_when_everybody_left(declared):
    table = SubscriptionTable()
    live = [Subscription(pattern, lambda _: None, None) for pattern in declared]
    for each in live:
        table.add(each)
    for each in live:
        table.remove(each)
    assert not table._root.below


def test_a_group_takes_turns():
    table = SubscriptionTable()
    members = [Subscription("a", lambda _: None, "g") for _ in range(3)]
    for each in members:
        table.add(each)
    seen = [next(table.route("a").receivers()) for _ in range(6)]
    assert seen == members * 2


@given(st.lists(st.sampled_from(["add", "first", "last", "lose oldest", "lose newest"]), max_size=300))
def test_sequences_know_both_ends_whatever_dies(steps):
    alive, newest = {}, 0
    sequences = Sequences(alive)
    for step in steps:
        if step == "add":
            newest += 1
            alive[newest] = None
            sequences.add(newest)
        elif step == "first":
            assert sequences.first() == min(alive, default=None)
        elif step == "last":
            assert sequences.last() == max(alive, default=None)
        elif alive:
            del alive[min(alive) if step == "lose oldest" else max(alive)]
            sequences.forget()
    assert list(sequences.since(0)) == sorted(alive)
    assert len(sequences) == len(alive)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), subjects),
            st.tuples(st.just("remove"), st.integers(1, 40)),
        ),
        max_size=200,
    ),
    st.integers(0, 40),
    patterns,
)
def test_a_log_keeps_what_a_dict_keeps(steps, since, pattern):
    log, kept, last = StreamLog(), {}, 0
    for verb, what in steps:
        if verb == "add":
            last += 1
            kept[last] = what
            log.add(Stored(last, what, b"", None, "", 10, 0.0, 0, None))
        else:
            assert (log.remove(what) is not None) == (kept.pop(what, None) is not None)
        if len(steps) % 2:
            assert log.first_sequence == min(kept, default=last + 1)
            assert log.last_of(">") == max(kept, default=0)
    assert [each.sequence for each in log.since(since)] == [each for each in sorted(kept) if each >= since]
    assert (len(log), log.bytes, log.last_sequence) == (len(kept), 10 * len(kept), last)
    assert log.first_sequence == min(kept, default=last + 1)
    assert log.last_of(pattern) == max((each for each, subject in kept.items() if matches(pattern, subject)), default=0)
    newest = {subject: each for each, subject in sorted(kept.items())}
    assert log.last_per_subject(lambda _: True) == sorted(newest.values())
    for subject in newest:
        mine = [each for each, of in kept.items() if of == subject]
        assert (log.count_of(subject), log.first_of(subject)) == (len(mine), min(mine))
