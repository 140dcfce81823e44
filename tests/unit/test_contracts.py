"""Contracts as declared, before any server is asked; and what lost events look like in numbers."""

import enum
import inspect
import typing
from dataclasses import dataclass
from uuid import UUID

import msgspec
import pytest

from broker import InvalidKey, InvalidOption, InvalidSubject, QoS, QoSViolation, StreamBroker, contract
from broker.contracts.event_contracts import contract_of
from broker.contracts.headers import Headers
from broker.quality.losses import Gaps, Numbering
from broker.quality.receiving import STREAM_OPTIONS, EventOptions


@contract(subject="a.b", qos=QoS.AT_LEAST_ONCE, key="name", ordering_key="room")
class Named(msgspec.Struct, frozen=True):
    name: typing.Any
    room: str = "r"


class Colour(enum.Enum):
    RED = "red"


class Word(str, enum.Enum):  # noqa: UP042 - the older kind, whose str() is another text
    RED = "red"


def plain(**fields):
    return dataclass(type("Plain", (), {"__annotations__": fields}))


def test_a_contract_is_found_on_its_type_alone():
    declared = contract_of(Named)
    assert (declared.subject, declared.qos, declared.key, declared.ordering_key) == ("a.b", 1, "name", "room")

    class Heir(Named):
        pass

    with pytest.raises(InvalidOption, match="no contract of its own"):
        contract_of(Heir)
    with pytest.raises(InvalidOption):
        contract_of(Named("x"))


@pytest.mark.parametrize(
    ("value", "key"),
    [("x", "x"), (7, "7"), (UUID(int=1), "00000000-0000-0000-0000-000000000001"), (Word.RED, "red")],
)
def test_a_key_is_text_a_whole_number_or_a_uuid(value, key):
    assert contract_of(Named).key_of(Named(value)) == key


@pytest.mark.parametrize("value", [None, 1.5, True, b"x", Colour.RED, ("x",)])
def test_anything_else_is_none(value):
    with pytest.raises(InvalidKey, match=r"Named\.name"):
        contract_of(Named).key_of(Named(value))


def test_exactly_once_without_a_key_is_refused_where_it_is_declared():
    with pytest.raises(QoSViolation, match="key='battle_id'") as caught:
        contract(subject="a.b", qos=QoS.EXACTLY_ONCE)(plain(battle=str))
    assert caught.value.subject == "a.b"


@pytest.mark.parametrize("option", ["key", "ordering_key"])
def test_nothing_is_remembered_at_most_once(option):
    with pytest.raises(QoSViolation, match=f"{option}= means nothing"):
        contract(subject="a.b", qos=QoS.AT_MOST_ONCE, **{option: "battle"})(plain(battle=str))


@pytest.mark.parametrize(
    ("event", "options", "option"),
    [
        (plain(battle=str), {"qos": QoS.AT_LEAST_ONCE, "key": "room"}, "key"),
        (plain(battle=str), {"qos": QoS.AT_LEAST_ONCE, "ordering_key": "room"}, "ordering_key"),
        (dict, {"qos": QoS.AT_LEAST_ONCE}, "event"),
        (print, {"qos": QoS.AT_LEAST_ONCE}, "event"),
        (type("Heir", (plain(battle=str),), {}), {"qos": QoS.AT_LEAST_ONCE}, "event"),
        (plain(battle=str), {"qos": 3}, "qos"),
        (plain(battle=str), {"qos": True}, "qos"),
        (plain(battle=str), {"qos": "EXACTLY_ONCE"}, "qos"),
        (plain(battle=str), {"qos": QoS.AT_LEAST_ONCE, "subject": "battle.{battle}"}, "subject"),
    ],
)
def test_what_cannot_be_a_contract_is_refused(event, options, option):
    with pytest.raises(InvalidOption) as caught:
        contract(**{"subject": "a.b", **options})(event)
    assert caught.value.option == option


def test_the_subject_is_one_that_can_be_published_to():
    with pytest.raises(InvalidSubject):
        contract(subject="a.*", qos=QoS.AT_MOST_ONCE)


def test_on_takes_what_consume_and_subscribe_take():
    """One who adds an option to either finds out here that ``on`` does not know it."""
    for verb, known in (
        (StreamBroker.consume, STREAM_OPTIONS),
        (StreamBroker.subscribe, {*EventOptions.__annotations__}),
    ):
        taken = {name for name, each in inspect.signature(verb).parameters.items() if each.kind is each.KEYWORD_ONLY}
        assert taken <= known
    both = {*inspect.signature(StreamBroker.consume).parameters, *inspect.signature(StreamBroker.subscribe).parameters}
    assert both >= EventOptions.__optional_keys__


def test_gaps_are_counted_per_sender():
    gaps, one, other = Gaps(), Numbering(), Numbering()
    sent = [one.next() for _ in range(10)]
    assert [gaps.missing(sent[at]) for at in (3, 4, 8, 9)] == [0, 0, 3, 0]
    assert gaps.missing(other.next()) == 0
    assert gaps.missing(sent[5]) == 0  # late: it was counted as lost, and stays so
    assert gaps.missing(sent[9]) == 0


@pytest.mark.parametrize("value", ["", "x 1", "0123456789abcdef", "0123456789abcdef -1", "0123456789abcdef 1 ", "é 1"])
def test_who_numbers_otherwise_numbers_nothing(value):
    gaps = Gaps()
    assert gaps.missing(Headers([("Gamebroker-Number", value)])) == 0
    assert gaps.missing(None) == 0


def test_of_many_senders_the_quietest_is_forgotten():
    gaps, first = Gaps(), Numbering()
    gaps.missing(first.next())
    for _ in range(4096):
        gaps.missing(Numbering().next())
    lost = [first.next() for _ in range(3)][-1]
    assert gaps.missing(lost) == 0
    assert gaps.missing([first.next() for _ in range(3)][-1]) == 2
