"""Lending against a model that is a plain list: nothing lost, nothing twice after settling, never more than allowed."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.backends.memory.lending import Lending, Start

WAIT = 10.0


@dataclass
class Message:
    sequence: int
    state: str = "new"  # new | lent | again | done
    attempts: int = 0
    due: float = 0.0


class Model:
    """What a consumer has to do with each message, looked up by walking the list."""

    def __init__(self):
        self.messages = []
        self.gone = set()

    def next_from(self, sequence):
        for message in self.messages:
            if message.sequence >= sequence and message.sequence not in self.gone:
                return message.sequence
        return None

    def __contains__(self, sequence):
        return 1 <= sequence <= len(self.messages) and sequence not in self.gone

    def of(self, *states):
        return [message for message in self.messages if message.state in states]


class LendingMachine(RuleBasedStateMachine):
    @initialize(places=st.integers(1, 5))
    def begin(self, places):
        self.model = Model()
        self.places = places
        self.now = 0.0
        self.handed_out = 0
        self.lending = Lending(self.model, Start(1), max_ack_pending=places, ack_wait=WAIT, acks=True)

    def pick(self, data, *states):
        chosen = self.model.of(*states)
        return data.draw(st.sampled_from(chosen)) if chosen else None

    @rule(count=st.integers(1, 4))
    def append(self, count):
        for _ in range(count):
            self.model.messages.append(Message(len(self.model.messages) + 1))
            self.lending.offered()

    @rule(count=st.integers(1, 6))
    def fetch(self, count):
        self.lending.expire(self.now)
        self.mark_expired()
        for _ in range(count):
            lent = self.lending.lend(self.now)
            again, new = self.model.of("again"), self.model.of("new")
            if lent is None:
                assert not again
                assert not new or len(self.model.of("lent")) == self.places
                return
            message = self.model.messages[lent.sequence - 1]
            assert message in again if again else message is new[0]
            message.state, message.due = "lent", self.now + WAIT
            message.attempts += 1
            self.handed_out += 1
            assert lent.attempt == message.attempts
            assert lent.number == self.handed_out
            assert lent.pending == len(self.model.of("new"))

    @rule(data=st.data())
    def ack(self, data):
        message = self.pick(data, "lent", "again", "done")
        if message is not None:
            assert self.lending.settle(message.sequence) == (message.state != "done")
            message.state = "done"

    @rule(data=st.data(), delay=st.sampled_from([0, 0.5, 3, 25]))
    def nak(self, data, delay):
        message = self.pick(data, "lent", "again", "done")
        if message is None:
            return
        assert self.lending.give_back(message.sequence, self.now, delay) == (message.state != "done")
        if message.state == "lent":
            message.state, message.due = ("lent", self.now + delay) if delay else ("again", 0)

    @rule(data=st.data())
    def extend(self, data):
        message = self.pick(data, "lent", "again", "done")
        if message is None:
            return
        assert self.lending.extend(message.sequence, self.now) == (message.state != "done")
        if message.state == "lent":
            message.due = self.now + WAIT

    @rule(seconds=st.sampled_from([0.25, 1, 5, 10, 30]))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def expire(self):
        over = [each for each in self.model.of("lent") if each.due <= self.now]
        assert self.lending.expire(self.now) == bool(over)
        self.mark_expired()

    @rule(data=st.data())
    def delete(self, data):
        message = self.pick(data, "new", "lent", "again", "done")
        if message is not None and message.sequence not in self.model.gone:
            self.model.gone.add(message.sequence)
            self.lending.withdrawn(message.sequence)
            message.state = "done"

    @precondition(lambda self: self.model.of("lent"))
    @rule()
    def the_alarm_never_comes_too_late(self):
        assert self.lending.next_due <= min(each.due for each in self.model.of("lent"))

    @invariant()
    def counts_are_right(self):
        out = self.model.of("lent", "again")
        assert self.lending.ack_pending == len(out) <= self.places
        assert self.lending.pending == len(self.model.of("new"))
        assert self.lending.redelivered == sum(each.attempts > 1 for each in out)
        floor = self.lending.ack_floor
        assert all(each.state == "done" for each in self.model.messages[:floor])

    def teardown(self):
        """Whoever goes on fetching and settling sees everything that was not settled, once more, and then nothing."""
        left = {each.sequence for each in self.model.of("new", "lent", "again")}
        seen = set()
        for _ in range(len(left) + 1):
            self.now += 100
            self.lending.expire(self.now)
            while (lent := self.lending.lend(self.now)) is not None:
                assert lent.sequence not in seen
                seen.add(lent.sequence)
                self.lending.settle(lent.sequence)
        assert seen == left
        assert self.lending.next_due is None

    def mark_expired(self):
        for each in self.model.of("lent"):
            if each.due <= self.now:
                each.state = "again"


TestLending = LendingMachine.TestCase
TestLending.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
