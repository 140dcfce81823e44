"""The state channel against a dict: whatever the network does to frames, a reader shows what the room was."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import JsonCodec, MsgpackCodec
from broker.contracts.errors import DecodeError
from broker.state.composing import Composer
from broker.state.delta import differences, keep, merge
from broker.state.following import Follower
from broker.state.frames import from_array, from_snapshot

CODECS = {"json": JsonCodec(), "msgpack": MsgpackCodec()}
names = st.sampled_from(["ann", "bob", "cid"])
field_names = st.sampled_from(["x", "y", "hp"])
scalars = st.sampled_from([0, 1, -1, True, False, None, 0.5, 1.0, 0.0, -0.0, "", "a", "b"])
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(field_names, scalars, max_size=2)
entities = values | st.dictionaries(field_names, values, max_size=3)
states = st.dictionaries(names, entities, max_size=3)


def exactly(value):
    """For comparing types as well: ``True`` is not ``1`` on the wire."""
    return repr(sorted_deep(value))


def sorted_deep(value):
    if isinstance(value, dict):
        return {name: sorted_deep(value[name]) for name in sorted(value)}
    return [sorted_deep(each) for each in value] if isinstance(value, list) else value


def play(data, state):
    """One tick of a game: change something, in place more often than not."""
    deed = data.draw(st.sampled_from(["field", "entity", "leave", "cut", "inside", "nothing"]))
    entity = data.draw(names)
    held = state.get(entity)
    if deed == "entity" or held is None:
        state[entity] = data.draw(entities)
    elif deed == "leave":
        del state[entity]
    elif isinstance(held, dict) and deed == "field":
        held[data.draw(field_names)] = data.draw(values)
    elif isinstance(held, dict) and deed == "cut":
        held.pop(data.draw(field_names), None)
    elif deed == "inside":
        for inner in [held, *(held.values() if isinstance(held, dict) else ())]:
            if isinstance(inner, list):
                inner.append(data.draw(scalars))


class Room:
    """The sending side: a game that is played, and everything it ever sent."""

    def __init__(self, data, codec, *, keyframe_every=4, keep_events=3, epoch=0, boot=1):
        self.data = data
        self.codec = codec
        self.composer = Composer(codec, keyframe_every=keyframe_every, keep_events=keep_events, epoch=epoch, boot=boot)
        self.state = {}
        self.states = {}
        self.frames = []
        self.events = 0

    def tick(self):
        play(self.data, self.state)
        events = []
        for _ in range(self.data.draw(st.integers(0, 2))):
            self.events += 1
            events.append({"event": self.events})
        draft = self.composer.draft(self.state, events, tick=None, sent=0, now=0.0)
        self.composer.sent(draft, 0.0)
        frame = from_array(self.codec.loads(draft.data))
        self.frames.append(frame)
        self.states[frame.epoch, frame.boot, frame.seq] = exactly(self.codec.loads(self.codec.encode(self.state)))
        return frame


class Reader:
    """The receiving side, checked after every frame."""

    def __init__(self, states):
        self.follower = Follower("battle.42.state")
        self.states = states
        self.updates = []

    def take(self, frame, now=0.0):
        self.follower.take(frame, now)
        self.check()

    def check(self):
        shown = self.follower.shown
        if shown is not None:
            assert exactly(self.follower.state) == self.states[shown.epoch, shown.boot, shown.seq]

    def read(self):
        if self.follower.unread:
            self.updates.append(self.follower.read())

    @property
    def events(self):
        return [event for update in self.updates for event in update.events]


def mangled(data, frames):
    """Frames as a bad network delivers them: some lost, some twice, in any order."""
    arriving = data.draw(st.lists(st.sampled_from(frames), max_size=2 * len(frames)))
    return arriving if data.draw(st.booleans()) else sorted(arriving, key=lambda frame: frame.seq)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_delta_on_its_base_is_the_state(codec, data):
    state = data.draw(states)
    base, before = keep(state, codec.encode), codec.loads(codec.encode(state))
    untouched = copy.deepcopy(before)
    for _ in range(data.draw(st.integers(0, 8))):
        play(data, state)
    delta = codec.loads(codec.encode(differences(base, state, codec.encode)))
    assert exactly(merge(before, delta)) == exactly(codec.loads(codec.encode(state)))
    assert before == untouched


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("end", ["key frame", "snapshot"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_loss_repetition_and_order_ends_in_the_senders_state(codec, end, data):
    room = Room(data, codec)
    for _ in range(data.draw(st.integers(1, 12))):
        room.tick()
    reader = Reader(room.states)
    for frame in mangled(data, room.frames):
        reader.take(frame)
        if data.draw(st.booleans()):
            reader.read()
    if end == "snapshot":
        reader.follower.take_snapshot(from_snapshot(codec.loads(room.composer.snapshot())), 0.0)
    else:
        frame = room.tick()
        while frame.kind != "K":
            frame = room.tick()
        reader.take(frame)
    reader.check()
    assert exactly(reader.follower.state) == exactly(codec.loads(codec.encode(room.state)))
    assert reader.follower.complete
    assert reader.follower.shown.seq == room.composer.seq


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_events_are_read_once_in_order_or_counted(data):
    room = Room(data, CODECS["json"])
    for _ in range(data.draw(st.integers(1, 20))):
        room.tick()
    reader, first = Reader(room.states), None
    for frame in mangled(data, room.frames):
        if first is None:
            first = frame.last_event - len(frame.events)
        reader.take(frame)
        if data.draw(st.booleans()):
            reader.read()
    reader.follower.take_snapshot(from_snapshot(CODECS["json"].loads(room.composer.snapshot())), 0.0)
    reader.read()
    ids = [event.id for event in reader.events]
    assert ids == sorted(set(ids))
    assert [event.body["event"] for event in reader.events] == ids
    if first is not None:
        assert len(ids) + reader.follower.stats.events_lost == room.events - first
        assert sum(update.events_lost for update in reader.updates) == reader.follower.stats.events_lost


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_every_frame_that_arrived_is_accounted_for(data):
    room = Room(data, CODECS["json"])
    for _ in range(data.draw(st.integers(1, 12))):
        room.tick()
    reader, arrived = Reader(room.states), mangled(data, room.frames)
    for frame in arrived:
        reader.take(frame)
        if data.draw(st.booleans()):
            reader.read()
    stats, follower = reader.follower.stats, reader.follower
    held = follower.unread + (follower._waiting is not None)
    assert stats.received == len(arrived)
    assert stats.received == len(reader.updates) + stats.superseded + stats.stale + stats.malformed + held
    seen = sorted({frame.seq for frame in arrived})
    if arrived == sorted(arrived, key=lambda frame: frame.seq) and seen:
        assert stats.lost == seen[-1] - seen[0] + 1 - len(seen)
    assert sum(update.lost for update in reader.updates) <= stats.lost


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_several_owners_end_with_the_last_one(data):
    """Epochs rise from owner to owner, or a publisher starts again under the same one."""
    rooms, known, epoch = [], {}, 0
    for boot in range(1, data.draw(st.integers(2, 4))):
        epoch += data.draw(st.integers(0, 1))
        room = Room(data, CODECS["json"], epoch=epoch, boot=boot)
        room.states = known
        for _ in range(data.draw(st.integers(1, 5))):
            room.tick()
        rooms.append(room)
    reader = Reader(known)
    highest = 0
    for frame in mangled(data, [frame for room in rooms for frame in room.frames]):
        reader.take(frame)
        highest = max(highest, frame.epoch)
        assert reader.follower.epoch == highest
    last = rooms[-1]
    reader.follower.take_snapshot(from_snapshot(CODECS["json"].loads(last.composer.snapshot())), 0.0)
    reader.check()
    assert reader.follower.shown.boot == last.composer.boot
    assert exactly(reader.follower.state) == exactly(last.state)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_garbage_between_frames_is_refused_and_changes_nothing(data):
    room = Room(data, CODECS["json"])
    for _ in range(3):
        room.tick()
    array = ["?", *room.frames[-1]]
    array[0] = 1
    at = data.draw(st.integers(0, 10))
    array[at] = data.draw(
        st.sampled_from([None, -1, 2, "x", [], [1], {}, [[]], [{}, {}, [[]], {}], [{}, {"a": 1}, [], {}]])
    )
    reader = Reader(room.states)
    for frame in room.frames:
        reader.take(frame)
    shown = reader.follower.shown
    try:
        frame = from_array(array)
    except DecodeError:
        assert reader.follower.shown is shown
    else:  # still a frame, though perhaps none of this room's: whatever it does, nothing breaks
        reader.follower.take(frame, 0.0)
        assert reader.follower.state is not None
