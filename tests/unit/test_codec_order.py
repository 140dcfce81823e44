"""Equal bodies are equal bytes in every process, or an honest repeat would be a conflict."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec
import pytest

from broker import JsonCodec, MsgpackCodec

TOP = Path(__file__).resolve().parents[2]
TAGS = ("sword", "shield", "potion", "bow", "ring", "key", "map")
Slot = Enum("Slot", {tag: tag for tag in TAGS})
CODECS = [JsonCodec(), MsgpackCodec()]


@dataclass(frozen=True)
class Loot:
    tags: frozenset[str] = frozenset(TAGS)
    slots: set[Slot] = field(default_factory=lambda: set(Slot))


class Item(msgspec.Struct, frozen=True):
    name: str


class Chest(msgspec.Struct, rename="camel"):
    all_tags: set[str] = msgspec.field(default_factory=lambda: set(TAGS))
    slots: set[Slot] = msgspec.field(default_factory=lambda: set(Slot))
    items: set[Item] = msgspec.field(default_factory=lambda: {Item(tag) for tag in TAGS})
    loot: dict[str, list[Loot]] = msgspec.field(default_factory=lambda: {"z": [Loot()], "a": []})


class Pouch(msgspec.Struct):
    tags: set[str] = msgspec.field(default_factory=lambda: set(TAGS))


BODIES = {
    "a dataclass": Loot(),
    "a Struct": Chest(),
    "a Struct whose set has an order": Pouch(),
    "plain": {"z": {*TAGS}, "a": [{"b": frozenset(TAGS)}, {(1, tag) for tag in TAGS}]},
    "a set": {*TAGS, None, 7},
}


def test_a_set_is_the_same_bytes_in_every_process():
    program = (
        "from tests.unit.test_codec_order import BODIES, CODECS\n"
        "for codec in CODECS:\n"
        "    for name, body in BODIES.items():\n"
        "        print(type(codec).__name__, name, codec.encode(body))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=TOP,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in (1, 2)
    ]
    assert len(said[0]) == len(CODECS) * len(BODIES)
    assert said[0] == said[1]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("body", [Loot(), Chest(), Pouch()], ids=lambda body: type(body).__name__)
def test_and_comes_back_as_it_was(codec, body):
    assert codec.decode(codec.encode(body), type(body)) == body


def test_plain_dicts_in_json_keep_the_order_they_have():
    codec = JsonCodec()
    assert list(codec.loads(codec.encode({"z": 1, "a": {2, 1}}))) == ["z", "a"]
