"""What must hold after a seed, whatever was done to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from broker.contracts.headers import KEY, NO_HEADERS
from broker.contracts.lanes import place_of
from loadtest.sim.world import STREAM

if TYPE_CHECKING:
    from loadtest.sim.world import World


def violations(world: World) -> list[str]:
    """One sentence for each promise that did not hold."""
    return [*world.restless, *_lost(world), *_twice(world), *_sum(world), *_order(world), *_unstored(world)]


def _lost(world: World) -> list[str]:
    applied = {each.settlement for each in world.bank.log}
    sent = [each for journal in world.shape.journals for each in journal]
    strange = [f"applied and never sent: {each.subject} {each.key}" for each in applied - set(sent)]
    return [*(f"lost: {each.subject} {each.key}" for each in sent if each not in applied), *sorted(strange)]


def _twice(world: World) -> list[str]:
    counts = Counter(each.settlement for each in world.bank.log)
    return [f"applied {count} times: {each.subject} {each.key}" for each, count in counts.items() if count > 1]


def _sum(world: World) -> list[str]:
    total = world.bank.balances.total()
    return [f"the accounts sum up to {total}"] if total else []


def _order(world: World) -> list[str]:
    """In lanes, a room's settlements are applied in the order in which they were first stored."""
    if world.shape.mode != "ordered":
        return []
    stored: dict[str, list[str]] = defaultdict(list)
    for message in world.hub.streams.find(STREAM).log.since():
        place = place_of(message.subject)
        key = (message.headers or NO_HEADERS).get(KEY, "")
        if not place.again and f"{place.subject} {key}" not in stored[place.key or ""]:
            stored[place.key or ""].append(f"{place.subject} {key}")
    applied: dict[str, list[str]] = defaultdict(list)
    for each in world.bank.log:
        applied[each.settlement.room].append(f"{each.settlement.subject} {each.settlement.key}")
    return [
        f"order in {room}: stored {stored[room]}, applied {there}"
        for room, there in applied.items()
        if there != [each for each in stored[room] if each in there]
    ]


def _unstored(world: World) -> list[str]:
    """A receipt names the place where the message is."""
    if world.shape.stream["retention"] != "limits":
        return []
    log = world.hub.streams.find(STREAM).log
    wrong = []
    for settlement, sequence in world.receipts.items():
        message = log.get(sequence)
        if message is None or place_of(message.subject).subject != settlement.subject:
            wrong.append(f"the receipt of {settlement.subject} {settlement.key} says {sequence}, which is another's")
    return wrong
