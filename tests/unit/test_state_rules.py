"""The state channel's rules, one by one, without a broker and without a clock."""

from collections import OrderedDict, UserDict
from types import MappingProxyType

import pytest

from broker.codecs import JsonCodec, MsgpackCodec
from broker.contracts.errors import DecodeError, EncodeError, InvalidOption
from broker.state.composing import EVENT_FRAMES, KEY_PAUSE, Composer
from broker.state.delta import differences, keep
from broker.state.following import TAKEOVER, Follower
from broker.state.frames import as_array, from_array, from_snapshot

CODEC = JsonCodec()


def composer(**options):
    given = {"keyframe_every": 4, "keep_events": 30, "epoch": 0, "boot": 10} | options
    return Composer(CODEC, **given)


def ticked(room, state=None, events=(), *, now=0.0, tick=None):
    draft = room.draft({"ann": {"x": room.seq}} if state is None else state, events, tick=tick, sent=0, now=now)
    room.sent(draft, now)
    return from_array(CODEC.loads(draft.data))


def delta(before, after):
    return differences(keep(before, CODEC.encode), after, CODEC.encode)


class TestDifferences:
    def test_nothing_changed_is_nothing_sent(self):
        state = {"ann": {"x": 1, "bag": ["sword"], "at": {"x": 1}}, "round": 3, "order": ["ann"]}
        assert delta(state, state) == [{}, {}, [], {}]

    def test_fields_one_by_one(self):
        assert delta({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3, "z": 4}}) == [{}, {"a": {"y": 3, "z": 4}}, [], {}]

    def test_removed_fields_and_entities(self):
        assert delta({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 2}}) == [{}, {}, ["b"], {"a": ["x"]}]

    def test_one_removed_while_one_is_added(self):
        assert delta({"a": {"x": 1}, "b": 1}, {"a": {"y": 1}, "c": 1}) == [
            {"c": 1}, {"a": {"y": 1}}, ["b"], {"a": ["x"]}
        ]  # fmt: skip

    @pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0), (None, 0), ([], {}), ("", None)])
    def test_what_is_written_otherwise_is_a_change(self, old, new):
        assert delta({"a": {"x": old}, "b": old}, {"a": {"x": new}, "b": new}) == [
            {"b": new},
            {"a": {"x": new}},
            [],
            {},
        ]

    @pytest.mark.parametrize(("old", "new"), [(0.0, -0.0), (-0.0, 0.0)])
    def test_a_zero_that_changes_its_sign_is_a_change(self, old, new):
        sent = delta({"a": {"x": old}, "b": old}, {"a": {"x": new}, "b": new})
        assert repr(sent) == repr([{"b": new}, {"a": {"x": new}}, [], {}])

    def test_a_zero_that_is_only_another_object_is_none(self):
        assert delta({"a": {"x": float("-0.0")}, "b": float("0")}, {"a": {"x": float("-0.0")}, "b": float("0")}) == [
            {}, {}, [], {}
        ]  # fmt: skip

    @pytest.mark.parametrize("shape", [[1], {"x": 1}, {"x": {"deep": [1]}}, 1])
    def test_an_entity_that_changes_its_kind_is_sent_whole(self, shape):
        before, after = {"a": shape}, {"a": "word"}
        assert delta(before, after) == [{"a": "word"}, {}, [], {}]
        assert delta(after, before) == [{"a": shape}, {}, [], {}]

    def test_a_value_changed_inside_its_owners_object(self):
        state = {"a": {"bag": ["sword"]}, "order": ["ann"]}
        base = keep(state, CODEC.encode)
        state["a"]["bag"].append("shield")
        state["order"].append("bob")
        assert differences(base, state, CODEC.encode) == [
            {"order": ["ann", "bob"]}, {"a": {"bag": ["sword", "shield"]}}, [], {}
        ]  # fmt: skip


class TestComposing:
    def test_the_first_frame_is_a_key_frame_and_every_fourth(self):
        room = composer()
        assert "".join(ticked(room).kind for _ in range(9)) == "KDDDKDDDK"

    def test_every_frame_may_be_a_key_frame(self):
        room = composer(keyframe_every=1)
        assert {ticked(room).kind for _ in range(3)} == {"K"}

    def test_a_crowd_that_asks_gets_a_key_frame_soon_and_the_next_one_later(self):
        room, kinds = composer(keyframe_every=1000), ""
        for step in range(7):
            room.ask()
            kinds += ticked(room, now=step * KEY_PAUSE / 3).kind
        assert kinds == "KDDKDDK"

    def test_a_later_epoch_begins_with_a_key_frame(self):
        room = composer(epoch=1)
        ticked(room)
        room.renew(1)
        assert ticked(room).kind == "D"
        room.renew(2)
        frame = ticked(room)
        assert (frame.kind, frame.epoch, frame.seq) == ("K", 2, 3)

    def test_ticks_count_on_from_the_number_given(self):
        room = composer()
        assert [ticked(room, tick=tick).tick for tick in (None, 7, None, 3)] == [1, 7, 8, 3]

    def test_a_draft_that_was_not_sent_counts_for_nothing(self):
        room = composer()
        ticked(room)
        room.draft({"bob": 1}, ["kill"], tick=9, sent=0, now=0.0)
        with pytest.raises(EncodeError):
            room.draft({"ann": object()}, (), tick=None, sent=0, now=0.0)
        frame = ticked(room)
        assert (frame.seq, frame.tick, frame.last_event, frame.events) == (2, 2, 0, [])

    @pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()], ids=["json", "msgpack"])
    @pytest.mark.parametrize("kind", [MappingProxyType, UserDict, OrderedDict])
    def test_entities_and_states_of_any_mapping(self, codec, kind):
        room = Composer(codec, keyframe_every=30, keep_events=30, epoch=0, boot=10)
        reader = Follower("a")
        for state in ({"a": {"x": 1}, "b": [1]}, {"a": {"x": 2}, "b": {"y": 1}, "c": {"z": 1}, "d": 1}, {"a": {}}):
            given = kind({name: kind(each) if isinstance(each, dict) else each for name, each in state.items()})
            draft = room.draft(given, (), tick=None, sent=0, now=0.0)
            room.sent(draft, 0.0)
            reader.take(from_array(codec.loads(draft.data)), 0.0)
            assert reader.state == state

    @pytest.mark.parametrize("events", [5, None, object(), "kill", b"kill", {"kill": 1}])
    def test_events_that_are_no_sequence_are_refused_by_name(self, events):
        room = composer()
        with pytest.raises(InvalidOption, match="events") as refused:
            room.draft({}, events, tick=None, sent=0, now=0.0)
        assert refused.value.option == "events"

    def test_an_event_rides_for_a_while_and_is_then_let_go(self):
        room = composer()
        first = ticked(room, events=["kill"])
        assert (first.last_event, first.events) == (1, [[1, "kill"]])
        frames = [ticked(room) for _ in range(EVENT_FRAMES)]
        assert [bool(frame.events) for frame in frames] == [True] * (EVENT_FRAMES - 1) + [False]
        assert frames[-1].last_event == 1

    @pytest.mark.parametrize(("kept", "carried"), [(3, [4, 5, 6]), (0, []), (30, [1, 2, 3, 4, 5, 6])])
    def test_newer_events_push_out_older_ones(self, kept, carried):
        room = composer(keep_events=kept)
        ticked(room, events=[1, 2, 3])
        frame = ticked(room, events=[4, 5, 6])
        assert (frame.last_event, [body for _, body in frame.events]) == (6, carried)

    def test_a_snapshot_is_the_key_frame_and_the_newest_delta(self):
        room = composer()
        assert from_snapshot(CODEC.loads(room.snapshot())) == []
        sent = [ticked(room) for _ in range(3)]
        assert from_snapshot(CODEC.loads(room.snapshot())) == [sent[0], sent[2]]
        ticked(room)
        last = ticked(room)
        assert from_snapshot(CODEC.loads(room.snapshot())) == [last]

    def test_a_state_that_may_change_in_place_is_kept_as_it_was(self):
        room, state = composer(), {"ann": {"bag": []}}
        ticked(room, state)
        state["ann"]["bag"].append("sword")
        assert from_snapshot(CODEC.loads(room.snapshot()))[0].body == {"ann": {"bag": []}}


class TestFollowing:
    def frames(self, number=9, **options):
        room = composer(**options)
        return [ticked(room) for _ in range(number)]

    def test_a_delta_without_its_key_frame_waits_for_it(self):
        room, frames = Follower("a"), self.frames()
        assert not room.take(frames[2], 0.0)
        assert (room.shown, room.complete, room.heard_of) == (None, False, True)
        assert room.take(frames[0], 0.0)
        assert (room.shown.seq, room.state, room.complete) == (3, {"ann": {"x": 2}}, True)

    def test_meanwhile_the_old_state_is_shown(self):
        room, frames = Follower("a"), self.frames()
        room.take(frames[0], 0.0)
        room.take(frames[5], 0.0)
        assert (room.shown.seq, room.complete) == (1, False)
        assert room.take_snapshot([frames[4]], 0.0)
        assert (room.shown.seq, room.complete) == (6, True)

    def test_a_key_frame_later_than_what_waits_replaces_it(self):
        room, frames = Follower("a"), self.frames()
        room.take(frames[2], 0.0)
        room.take(frames[4], 0.0)
        assert (room.shown.seq, room.complete, room.stats.superseded) == (5, True, 1)

    def test_a_snapshot_tells_nothing_of_what_was_lost(self):
        room, frames = Follower("a"), self.frames()
        room.take_snapshot([frames[0], frames[2]], 0.0)
        room.take(frames[3], 0.0)
        assert (room.stats.received, room.stats.lost, room.stats.stale) == (1, 0, 0)

    def test_an_earlier_publisher_is_believed_after_silence_only(self):
        room = Follower("a")
        new, old = self.frames(3, boot=20), self.frames(9, boot=10)
        room.take(new[0], 0.0)
        assert not room.take(old[0], TAKEOVER - 0.1)
        assert room.take(new[1], TAKEOVER)
        assert not room.take(old[0], 2 * TAKEOVER - 0.1)
        assert room.take(old[0], 2 * TAKEOVER)
        assert (room.shown.boot, room.stats.stale) == (10, 2)
        assert room.take(new[0], 2 * TAKEOVER)

    def test_a_lower_epoch_is_not_believed_after_any_silence(self):
        room = Follower("a")
        room.take(self.frames(1, epoch=2)[0], 0.0)
        assert not room.take(self.frames(1, epoch=1, boot=99)[0], 1e9)

    def test_a_new_owner_is_waited_for_while_the_old_state_is_shown(self):
        room, later = Follower("a"), self.frames(2, epoch=2, boot=20)
        room.take(self.frames(1)[0], 0.0)
        room.take(later[1], 0.0)
        assert (room.shown.epoch, room.epoch, room.complete, room.state) == (0, 2, False, {"ann": {"x": 0}})

    def test_a_delta_on_a_key_frame_that_has_no_entities_is_malformed(self):
        room, frames = Follower("a"), self.frames()
        room.take(frames[0]._replace(body=[1]), 0.0)
        assert not room.take(frames[1], 0.0)
        assert (room.stats.malformed, room.state) == (1, [1])

    def test_a_delta_on_an_earlier_key_frame_is_stale(self):
        room, frames = Follower("a"), self.frames()
        room.take(frames[4], 0.0)
        assert not room.take(frames[5]._replace(base=1), 0.0)
        assert (room.stats.stale, room.complete) == (1, True)

    def test_events_of_a_reader_that_never_reads_are_bounded_and_counted(self):
        source, room = composer(), Follower("a")
        for number in range(300):
            room.take(ticked(source, events=[number]), 0.0)
        update = room.read()
        assert [event.body for event in update.events] == list(range(44, 300))
        assert (update.events_lost, room.read().events_lost) == (44, 0)

    def test_events_are_read_once_also_when_a_second_publisher_came_and_went(self):
        room, first = Follower("a"), composer(boot=10)
        others = [composer(boot=boot) for boot in (20, 30)]
        room.take(ticked(first, events=["kill"]), 0.0)
        for other in others:
            room.take(ticked(other, events=[f"of {other.boot}"]), 0.0)
        missed = ticked(first, events=["meanwhile"])
        assert not room.take(missed, TAKEOVER - 0.1)
        for now in (TAKEOVER, TAKEOVER + 0.1):
            room.take(ticked(first), now)
        room.take(ticked(others[1], events=["again"]), TAKEOVER + 0.2)
        update = room.read()
        assert [event.body for event in update.events] == ["kill", "of 20", "of 30", "meanwhile", "again"]
        assert update.events_lost == 0

    def test_publishers_that_came_and_went_are_remembered_within_bounds(self):
        room = Follower("a")
        for boot in range(10, 1010):
            room.take(ticked(composer(boot=boot), events=["kill"]), 0.0)
        assert len(room._left) <= 4

    def test_what_was_before_joining_is_no_loss(self):
        source, room = composer(keep_events=2), Follower("a")
        for number in range(9):
            frame = ticked(source, events=[number])
        room.take(frame, 0.0)
        room.take_snapshot(from_snapshot(CODEC.loads(source.snapshot())), 0.0)
        update = room.read()
        assert ([event.id for event in update.events], update.events_lost, update.lost) == ([8, 9], 0, 0)


class TestFrames:
    GOOD = as_array(ticked(composer(), events=["kill"]))

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (0, 2), (0, "1"), (1, "X"), (1, None), (2, -1), (2, 1.0), (3, True), (4, 0), (4, 2), (5, None), (6, 9),
            (7, "now"), (8, 0), (9, None), (9, [1]), (9, [["t", 1]]), (9, [[1, 2], [1, 2]]), (9, [[1]]),
        ],
    )  # fmt: skip
    def test_what_is_no_frame_is_refused(self, place, value):
        array = list(self.GOOD)
        assert as_array(from_array(list(array))) == array
        array[place] = value
        with pytest.raises(DecodeError):
            from_array(array)

    @pytest.mark.parametrize(
        "body",
        [
            None, {}, [], [{}, {}, []], [{}, {}, [], {}, {}], [[], {}, [], {}], [{}, {"a": 1}, [], {}],
            [{}, {}, [[]], {}], [{}, {}, [], {"a": "x"}], [{}, {}, [], {"a": [{}]}],
        ],
    )  # fmt: skip
    def test_what_is_no_delta_is_refused(self, body):
        array = list(self.GOOD)
        array[1], array[4], array[-1] = "D", 2, [{}, {}, [], {}]
        assert from_array(list(array)).kind == "D"
        array[-1] = body
        with pytest.raises(DecodeError):
            from_array(array)

    @pytest.mark.parametrize("raw", [None, {}, "x", [1], [[]], [[1] * 11]])
    def test_what_is_no_snapshot_is_refused(self, raw):
        with pytest.raises(DecodeError):
            from_snapshot(raw)
