"""What strangers send to a decoder: refused by name, soon, and without growing, whatever it is."""

import dataclasses
import json
import re
import resource
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import DecodeError, EncodeError, InvalidOption, JsonCodec, MsgpackCodec
from broker.codecs.depth import deeper_than
from broker.contracts.envelopes import Envelope
from broker.messages import Message

TOP = Path(__file__).resolve().parents[2]
SOON = 5.0
"""Seconds; what is measured takes a few milliseconds."""


@dataclasses.dataclass
class Chain:
    n: "Chain | None" = None


class Move(msgspec.Struct):
    n: int


DEEP = {
    "arrays": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"n":' * 100_000 + b"null" + b"}" * 100_000,
    "arrays that do not end": b"[" * 1_000_000,
    "both": b'[{"n":' * 50_000,
}
BAD = {
    **DEEP,
    "a whole number of a million digits": b'{"n":' + b"9" * 1_000_000 + b"}",
    "an exponent": b'{"n":1e999999999}',
    "an exponent of a thousand digits": b'{"n":1e' + b"9" * 1000 + b"}",
    "NaN": b'{"n":NaN}',
    "infinity": b'{"n":-Infinity}',
    "half a surrogate": b'"\\ud800"',
    "not UTF-8": b'"\xff\xfe"',
    "nothing": b"",
    "blanks": b" " * 1_000_000,
    "two values": b"{}{}",
    "a control character": b'{"n":"\x00"}',
    "quotes": b'"' * 1_000_001,
    "backslashes": b'"' + b"\\" * 999_999,
}
BAD_PACKS = {
    "arrays": b"\x91" * 1_000_000 + b"\xc0",
    "maps": b"\x81\xa1n" * 300_000 + b"\xc0",
    "an array that claims four thousand million items": b"\xdd\xff\xff\xff\xff",
    "a map that claims them": b"\xdf\xff\xff\xff\xff",
    "bytes that claim them": b"\xc6\xff\xff\xff\xff",
    "text that claims them": b"\xdb\xff\xff\xff\xff",
    "an extension that claims them": b"\xc9\xff\xff\xff\xff\x01",
    "nothing": b"",
    "a reserved byte": b"\xc1",
}


def refused(decode):
    began, before = monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError) as caught:
        decode()
    assert monotonic() - began < SOON
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB: it grew by what was claimed"
    assert len(str(caught.value)) < 300, "the error does not carry the message along"


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("into", [None, Chain, Move, object, dict, list[int]])
def test_json_that_is_none_is_a_decode_error(what, into):
    codec, data = JsonCodec(), BAD[what]
    refused(lambda: codec.loads(data) if into is None else codec.decode(data, into))


@pytest.mark.parametrize("what", BAD_PACKS)
@pytest.mark.parametrize("into", [None, Chain, Move, dict, list[int]])
def test_messagepack_that_is_none_is_a_decode_error(what, into):
    codec, data = MsgpackCodec(), BAD_PACKS[what]
    refused(lambda: codec.loads(data) if into is None else codec.decode(data, into))


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()])
def test_what_is_too_deep_to_be_sent_is_an_encode_error(codec):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodeError):
        codec.encode(deep)
    while deep:  # taken apart by hand: so deep a list is more than the interpreter frees by itself
        deep = deep.pop()


# -- limits of one's own


@pytest.mark.parametrize("codec", [JsonCodec(max_bytes=16), MsgpackCodec(max_bytes=16)])
def test_a_body_over_the_limit_is_not_decoded(codec):
    for decode in (codec.loads, lambda data: codec.decode(data, list)):
        assert decode(codec.encode([1, 2, 3])) == [1, 2, 3]
        with pytest.raises(DecodeError, match="at most 16 are decoded"):
            decode(codec.encode(["x" * 40]))


@pytest.mark.parametrize("what", DEEP)
def test_a_body_over_the_depth_is_not_decoded(what):
    codec = JsonCodec(max_depth=8)
    refused(lambda: codec.loads(DEEP[what]))
    with pytest.raises(DecodeError, match="deeper than 8 levels"):
        codec.decode(DEEP[what], Chain)


def test_a_depth_is_counted_outside_of_texts_only():
    codec = JsonCodec(max_depth=2)
    fine = {"a": ["[[[[{{{{", '"[[[\\"', "\\"], "b": ["]]]]"], "[": ["{"]}
    assert codec.loads(json.dumps(fine).encode()) == fine
    with pytest.raises(DecodeError, match="deeper than 2"):
        codec.loads(b'["]]]",["]",["]"]]]')


@pytest.mark.parametrize(
    "text", [b'\\"' * 500_000, b'["' + b'\\"' * 500_000, b"[" * 50 + b'"' + b"\\" * 999_999, b'"' * 10**6]
)
def test_counting_takes_no_longer_for_what_is_made_to_take_long(text):
    began = monotonic()
    deeper_than(8, text + b"[" * 100)
    assert monotonic() - began < SOON


nested = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=40,
)


def depth_of(value):
    if isinstance(value, list | dict):
        return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(nested, st.integers(1, 6))
def test_the_count_is_the_depth(value, levels):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert deeper_than(levels, text.encode("utf-8", "surrogatepass")) is (depth_of(value) > levels)


@given(st.binary(max_size=300), st.integers(1, 4))
def test_whatever_comes_is_decoded_or_refused_by_name(data, levels):
    for decode in (JsonCodec(max_depth=levels).loads, MsgpackCodec().loads):
        with suppress(DecodeError):
            decode(data)


@pytest.mark.parametrize(
    "options", [{"max_bytes": 0}, {"max_bytes": "1"}, {"max_depth": 0}, {"max_depth": 1001}, {"max_depth": True}]
)
def test_a_limit_out_of_range_is_refused_by_name(options):
    with pytest.raises(InvalidOption) as caught:
        JsonCodec(**options)
    assert caught.value.option == next(iter(options))


def test_json_of_a_message_keeps_to_the_limits_of_its_broker():
    deep = Envelope("s", b"[[[[1]]]]", None)
    assert Message(deep, JsonCodec(), None).json() == [[[[1]]]]
    assert Message(deep, MsgpackCodec(), None).json() == [[[[1]]]]
    with pytest.raises(DecodeError):
        Message(deep, JsonCodec(max_depth=3), None).json()


# -- what would make an attacker's bytes into code


RUNS = re.compile(
    r"^\s*(?:import|from)\s+(?:pickle|cPickle|_pickle|dill|cloudpickle|marshal|shelve|yaml)\b"
    r"|(?<![\w.])(?:eval|exec|compile|__import__)\(",
    re.MULTILINE,
)


def test_nothing_that_runs_what_it_reads_is_in_the_library_or_the_services():
    found = [
        f"{path.relative_to(TOP)}: {each.group().strip()}"
        for room in ("broker", "services")
        for path in sorted((TOP / room).rglob("*.py"))
        for each in RUNS.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("line", ["import pickle", "    from marshal import loads", "x = eval(text)", "exec(code, {})"])
def test_it_would_be_found(line):
    assert RUNS.search(f"import re\n{line}\n")
    assert not RUNS.search("import re\nre.compile(x)\nself.eval(x)\n")


def test_no_dependency_of_the_library_is_for_pickling():
    assert not re.findall(r"(?i)pickle|dill", (TOP / "pyproject.toml").read_text(encoding="utf-8"))
