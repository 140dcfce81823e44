"""What users may rely on: the public names, their parameters, and the tree of errors."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import broker
from broker.contracts import errors, event_errors, key_errors

PACKAGE = Path(broker.__file__).parent


class Broker:
    """The verbs as the design fixed them. Keyword-only options may be added, nothing else may change."""

    def connect(self, url=None, *, name=None, codec=None, tls=None, user=None, password=None, token=None,
                creds=None, inbox_prefix=None, connect_timeout=5.0, outbound_limit=8 << 20): ...  # fmt: skip
    def publish_nowait(self, subject, body, *, headers=None): ...
    async def publish(self, subject, body, *, headers=None): ...
    async def subscribe(self, subject, handler=None, *, queue=None, pending_limit=65_536, overflow="drop_oldest"): ...
    async def request(self, subject, body, *, timeout=2.0, headers=None): ...
    def request_many(self, subject, body, *, timeout=1.0, max_replies=None): ...
    async def respond(self, subject, responder, *, queue=None, concurrency=64): ...
    def state(self, subject, *, keyframe_every=30, epoch=0): ...
    def watch_state(self, subject): ...
    async def flush(self, timeout=2.0): ...
    async def drain(self, timeout=25.0): ...
    async def aclose(self): ...


class StreamBroker:
    async def declare(self, *streams, ensure="verify"): ...
    async def enqueue(self, subject, body, *, idempotency_key=None, ordering_key=None, headers=None, ttl=None,
                      expect=None, timeout=15.0): ...  # fmt: skip
    async def enqueue_many(self, entries, *, window=1024, timeout=30.0): ...
    async def enqueue_atomic(self, entries, *, timeout=15.0): ...
    async def schedule(self, subject, body, *, at=None, delay=None, every=None, key, idempotency_key=None): ...
    async def cancel(self, key): ...
    async def increment(self, subject, by=1, *, idempotency_key=None): ...
    async def consume(self, subject, handler, *, queue=None, durable=None, max_ack_pending=256, ack_wait=30.0,
                      concurrency=16, max_deliver=5, backoff=(1, 5, 30, 120), dead_letter=True, auto_extend=True,
                      ordered=False, inbox=None, stream=None, ensure="verify"): ...  # fmt: skip
    def pull(self, subject, *, queue=None, durable=None, batch=100, max_ack_pending=1000, ack_wait=30.0, stream=None,
             ensure="verify"): ...  # fmt: skip
    def read(self, subject, *, start="first", until=None): ...
    async def key_value(self, bucket, *, history=10, ttl=None, max_bytes=None, storage="file"): ...
    async def send(self, event): ...
    async def on(self, event_type, handler, **consume_options): ...


class KeyValue:
    async def get(self, key): ...
    async def put(self, key, value): ...
    async def create(self, key, value, *, ttl=None): ...
    async def update(self, key, value, *, revision): ...
    async def delete(self, key, *, revision=None): ...
    async def purge(self, key): ...
    async def history(self, key): ...


class Message:
    def json(self): ...
    def decode(self, into): ...
    async def respond(self, body): ...


class StreamMessage:
    async def ack(self, *, confirm=False): ...
    async def nak(self, *, delay=None): ...
    async def term(self, reason=""): ...
    async def in_progress(self): ...


class StatePublisher:
    def tick(self, state, events=()): ...


DESIGNED = (Broker, StreamBroker, KeyValue, Message, StreamMessage, StatePublisher)
VERBS = [(design.__name__, verb) for design in DESIGNED for verb in vars(design) if not verb.startswith("_")]
ATTRIBUTES = {
    "Broker": ["status", "stats", "status_changes"],
    "StreamBroker": ["streams", "consumers", "dead_letters", "buckets"],
    "Message": ["subject", "data", "headers", "reply_to"],
    "StreamMessage": ["stream", "sequence", "consumer", "attempt", "timestamp", "pending", "idempotency_key"],
    "StateReader": ["state", "rooms", "stats", "__aiter__", "__aenter__"],
    "Puller": ["fetch", "next", "__aiter__"],
    "Consumption": ["drain", "wait", "pause", "resume"],
    "StreamAdmin": ["create", "update", "ensure", "info", "list", "names", "purge", "delete", "get_message", "get_last",
                    "delete_message"],
    "ConsumerAdmin": ["info", "list", "names", "delete"],
    "DeadLetters": ["list", "replay", "sweep"],
    "KeyValue": ["keys", "watch"],
    "KeyEntry": ["key", "value", "revision", "operation", "created", "json", "decode"],
    "Watch": ["ready", "__aiter__", "__anext__"],
    "BucketAdmin": ["info", "list", "names", "delete"],
}  # fmt: skip
RECORDS = {
    "Entry": ["subject", "body", "idempotency_key", "ordering_key", "headers", "ttl", "expect"],
    "StreamOptions": ["name", "subjects", "storage", "max_msgs", "max_bytes", "max_age", "duplicate_window", "discard",
                      "replicas", "durability", "lanes"],
    "StateUpdate": ["subject", "state", "tick", "epoch", "seq"],
    "Receipt": ["stream", "sequence", "duplicate"],
    "ConsumeOptions": ["concurrency", "max_deliver", "backoff", "dead_letter", "auto_extend"],
}  # fmt: skip


def public(name):
    """A public class; one that users get but do not name may live in a room of its own."""
    if hasattr(broker, name):
        return getattr(broker, name)
    for module in pkgutil.iter_modules(broker.__path__, "broker."):
        if not module.ispkg and hasattr(importlib.import_module(module.name), name):
            return getattr(importlib.import_module(module.name), name)
    return pytest.fail(f"there is no {name}")


def parameters(function):
    return {name: each for name, each in inspect.signature(function).parameters.items() if name not in {"self", "cls"}}


def test_all_is_what_can_be_imported():
    importable = {
        name for name, value in vars(broker).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(broker.__all__) - {"__version__"} == importable - {"annotations", "TYPE_CHECKING"}
    assert len(broker.__all__) == len(set(broker.__all__))


@pytest.mark.parametrize("name", broker.__all__)
def test_a_public_name_explains_itself(name):
    value = getattr(broker, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        # Not inherited: a dataclass writes its signature there when it has no sentence of its own.
        assert value.__doc__, name
        assert not value.__doc__.startswith(f"{name}("), name


def test_every_error_is_public():
    assert {name for name, value in ERRORS.items() if inspect.isclass(value)} <= set(broker.__all__)


def test_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_a_verb_is_as_designed(name, verb):
    design = vars(globals()[name])[verb]
    actual = getattr(public(name), verb)
    assert inspect.iscoroutinefunction(actual) == inspect.iscoroutinefunction(design)
    wanted, given = parameters(design), parameters(actual)
    for parameter, promised in wanted.items():
        assert parameter in given
        assert given[parameter].kind is promised.kind, parameter
        assert given[parameter].default == promised.default, parameter
    positional = [each for each in given if given[each].kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == [each for each in wanted if wanted[each].kind is not inspect.Parameter.KEYWORD_ONLY]
    for added in given.keys() - wanted.keys():
        assert given[added].default is not inspect.Parameter.empty, f"{added} is required, so callers break"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_as_designed(name):
    owner = public(name)
    # What __init__ assigns is no attribute of the class yet.
    assigned = set(re.findall(r"self\.(\w+)(?::[^=\n]+)? =", inspect.getsource(owner)))
    assert not [each for each in ATTRIBUTES[name] if not hasattr(owner, each) and each not in assigned]


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_frozen_and_as_designed(name):
    record = public(name)
    if issubclass(record, tuple):  # a named tuple cannot be changed either
        fields = list(record._fields)
    else:
        assert record.__dataclass_params__.frozen
        fields = [each.name for each in dataclasses.fields(record)]
    assert [each for each in fields if each in RECORDS[name]] == RECORDS[name]


def test_a_puller_takes_a_number_and_a_timeout():
    fetch = parameters(public("Puller").fetch)
    assert fetch["timeout"].kind in {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert next(iter(fetch)) != "timeout"


def test_quality_of_service_has_three_grades():
    assert {each.name: each.value for each in broker.QoS} == {
        "AT_MOST_ONCE": 0,
        "AT_LEAST_ONCE": 1,
        "EXACTLY_ONCE": 2,
    }


def test_stream_broker_adds_verbs_and_overrides_none():
    """Whatever takes a Broker works with a StreamBroker, with the same promise."""
    verbs = {name: value for name, value in vars(broker.Broker).items() if not name.startswith("_")}
    for name, value in verbs.items():
        if name == "connect":  # a constructor: it makes the class it is called on
            continue
        assert name not in vars(broker.StreamBroker), f"StreamBroker overrides {name}"
        if not isinstance(value, property):  # which cannot carry the mark on 3.11
            assert getattr(value, "__final__", False), f"Broker.{name} is not @final"
    assert issubclass(broker.StreamBroker, broker.Broker)


ERRORS = {
    name: value
    for module in (errors, event_errors, key_errors)
    for name, value in vars(module).items()
    if not inspect.isclass(value) or issubclass(value, BaseException)
}


def drawn():
    """Name -> (parent, note) of the tree in the docstring."""
    path = ["BrokerError"]
    for line in errors.__doc__.splitlines():
        if found := re.match(r"(?P<indent>[│ ]*)[├└]── (?P<name>\w+)(?P<note>.*)", line):
            depth = len(found["indent"]) // 4 + 1
            path[depth:] = [found["name"]]
            yield found["name"], path[depth - 1], found["note"]


def test_the_error_tree_is_the_one_that_is_drawn():
    actual = {
        name: value.__bases__[0].__name__
        for name, value in ERRORS.items()
        if inspect.isclass(value) and value is not errors.BrokerError
    }
    assert {name: parent for name, parent, _ in drawn()} == actual


def test_timeouts_are_timeouts():
    assert {name for name, _, note in drawn() if "(TimeoutError)" in note} == {
        name for name, value in ERRORS.items() if inspect.isclass(value) and issubclass(value, TimeoutError)
    }
    assert {name for name, _, note in drawn() if "(ValueError)" in note} == {
        name for name, value in ERRORS.items() if inspect.isclass(value) and issubclass(value, ValueError)
    }
