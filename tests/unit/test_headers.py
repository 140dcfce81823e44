import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import Headers, InvalidHeader

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=20)
VALUES = st.text(st.characters(exclude_characters="\r\n\x00", exclude_categories=["Cs"]), max_size=40)


def test_no_headers_are_none():
    assert Headers.checked(None) is None
    assert Headers.checked({}) is None


def test_a_name_may_have_several_values_and_keeps_its_case():
    headers = Headers.checked({"X-Trace": ["a", "b"], "y": "c"})
    assert headers is not None
    assert headers["x-trace"] == "a"
    assert headers.get_all("X-TRACE") == ["a", "b"]
    assert list(headers) == ["X-Trace", "y"]
    assert dict(headers) == {"X-Trace": "a", "y": "c"}


@pytest.mark.parametrize(
    "given_headers",
    [
        {"a": "x\r\ny"},
        {"a": "x\n"},
        {"a": "\x00"},
        {"a\r\nb": "x"},
        {"": "x"},
        {"a b": "x"},
        {"a:b": "x"},
        {"ä": "x"},
        {"Nats-Msg-Id": "x"},
        {"nats-ttl": "1"},
        {"GAMEBROKER-Key": "x"},
        {"a": 1},
        {"a": ["x", 2]},
        {"a": None},
        {"a": b"x"},
        {"a": "\ud800"},
        ["a"],
        {1: "x"},
    ],
)
def test_bad_headers_are_refused_by_name(given_headers):
    with pytest.raises(InvalidHeader):
        Headers.checked(given_headers)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_good_headers_come_back_without_outer_blanks(given_headers):
    if any(name.lower().startswith(("nats-", "gamebroker-")) for name in given_headers):
        return
    headers = Headers.checked(given_headers)
    expected = [(name, value.strip(" \t")) for name, value in given_headers.items()]
    assert (list(headers.pairs) if headers else []) == expected


def test_reserved_names_are_hidden_from_applications():
    headers = Headers([("Nats-Msg-Id", "1"), ("mine", "x"), ("Gamebroker-Key", "k")])
    assert dict(headers.public()) == {"mine": "x"}
