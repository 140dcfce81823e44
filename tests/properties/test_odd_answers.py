"""An answer in which anything stands in any place: the doctor does not understand it, or tells something."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from broker.backends.nats.examining import Facts, Greeting
from broker.backends.nats.shapes import Account, Page, UserInfo, shaped
from broker.cli.diagnosis import diagnose

LIMITS = {"max_memory": -1, "max_storage": 10, "max_streams": -1, "max_consumers": 8}
ACCOUNT = {"memory": 1, "storage": 9, "streams": 1, "consumers": 2, "limits": LIMITS}
RIGHTS = {"publish": {"allow": ["a.>"], "deny": ["a.b"]}, "subscribe": {"allow": [">"]}}
USER = {"data": {"user": "room", "permissions": RIGHTS}, "server": {"time": "2026-11-21T18:00:00Z"}}
COPIES = {"leader": "n1", "replicas": [{"name": "n2", "current": True, "offline": False}]}
LIST = {"total": 1, "streams": [{"config": {"name": "S", "num_replicas": 3}, "cluster": COPIES}], "missing": ["T"]}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(answer, path=()):
    yield path
    parts = answer.items() if isinstance(answer, dict) else enumerate(answer) if isinstance(answer, list) else ()
    for name, part in parts:
        yield from places(part, (*path, name))


@st.composite
def odd(draw, answer):
    path, instead = draw(st.sampled_from(list(places(answer)))), draw(anything)
    if not path:
        return instead
    answer = whole = copy.deepcopy(answer)
    for name in path[:-1]:
        answer = answer[name]
    answer[path[-1]] = instead
    return whole


def understood(answer, shape):
    try:
        shaped(answer, shape)
    except ValueError:
        return None
    return answer


def told(**facts):
    greeting = Greeting(server="10.0.0.1:4222", info={"version": "2.15.1", "cluster": "c"}, encrypted=True)
    return diagnose(Facts(greetings=[greeting], jetstream=True, **facts))


@given(odd(ACCOUNT))
def test_of_an_account(answer):
    assert told(account=understood(answer, Account))


@given(odd(USER))
def test_of_a_user(answer):
    user = understood(answer, UserInfo)
    assert told(user=None if user is None else user.get("data"))


@given(odd(LIST))
def test_of_the_streams(answer):
    page = understood(answer, Page) or {}
    assert told(streams=page.get("streams"), silent=page.get("missing") or [])
