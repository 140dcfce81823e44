"""Judges what took effect: I1 to I7. No I/O, and nothing is asked of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtest.chaos.findings import Finding, finding, named
from loadtest.chaos.histories import Fate

if TYPE_CHECKING:
    from loadtest.chaos.evidence import Evidence, Pair


def judged(found: Evidence) -> list[Finding]:
    """A finding for each."""
    return [
        _applied(found),
        _once(found),
        _even(found),
        _no_ghosts(found),
        _unaltered(found),
        Finding("I6", "per-key order", None, "not promised without lanes"),
        _nothing_invisible(found),
    ]


def lost(found: Evidence) -> set[Pair]:
    """Confirmed as stored, meant to take effect, and neither in the books nor among the dead letters."""
    return {
        pair
        for pair in found.stored
        if found.fates.get(pair) is Fate.EFFECT and pair not in found.ledger.effects and pair not in found.letters
    }


def unmeant(found: Evidence) -> set[Pair]:
    """Meant to take effect, and found among the dead letters instead."""
    return {pair for pair in found.letters if found.fates.get(pair) is Fate.EFFECT} - found.ledger.effects


def ghosts(found: Evidence) -> set[Pair]:
    """Took effect though nobody sent it, or though it was certainly refused."""
    return {pair for pair in found.ledger.effects if not found.perhaps[pair] and not _altered(found, pair)}


def _altered(found: Evidence, pair: Pair) -> bool:
    """Whether it took effect with a payload that was not meant to."""
    return found.fates.get(pair) is Fate.LETTER


def _applied(found: Evidence) -> Finding:
    ledger = found.ledger
    return finding(
        "I1",
        "whatever was confirmed takes effect",
        named("confirmed and lost", lost(found)),
        named("in the inbox and not booked", ledger.unbooked),
        good=f"{len(found.stored):,} confirmed, {len(ledger.effects):,} took effect",
    )


def _once(found: Evidence) -> Finding:
    repeats = found.redelivered
    return finding(
        "I2", "nothing takes effect twice", named("booked twice", found.ledger.twice), good=f"{repeats:,} redeliveries"
    )


def _even(found: Evidence) -> Finding:
    ledger = found.ledger
    return finding(
        "I3",
        "double entry: both legs, zero in all, nothing changed afterwards",
        named("with half of their legs", ledger.half),
        named("whose legs do not add up to zero", ledger.uneven),
        f"the ledger adds up to {ledger.total}" if ledger.total else "",
        named("balances that are not the sum of their postings", ledger.untrue),
        named("booked other than sent", ledger.wrong),
        named("without exactly one row in the outbox", ledger.unsent),
        "" if ledger.guarded else "the ledger's rows can be changed: its triggers are gone",
        good="sum 0",
    )


def _no_ghosts(found: Evidence) -> Finding:
    return finding(
        "I4",
        "nothing takes effect that was not sent, or was refused",
        named("took effect though never sent, or refused", ghosts(found)),
        named("booked without a key in the inbox", found.ledger.unclaimed),
    )


def _unaltered(found: Evidence) -> Finding:
    altered = {pair for pair in found.ledger.effects if _altered(found, pair)}
    conflicts = sum(reason == "conflict" for reason in found.letters.values())
    return finding(
        "I5",
        "the payload that takes effect is the one that was sent first under its key",
        named("took effect with another payload", altered),
        good=f"{conflicts} conflicts refused",
    )


def _nothing_invisible(found: Evidence) -> Finding:
    unburied = {
        pair for pair in found.stored if found.fates.get(pair) is Fate.LETTER and pair not in found.letters
    } - found.ledger.effects
    return finding(
        "I7",
        "what has not taken effect can be seen: waiting, or a dead letter",
        f"{found.left:,} messages left unsettled at the end" if found.left else "",
        named("meant for the dead letters and not there", unburied),
        good=f"{len(found.letters)} dead letters, {len(unmeant(found))} of them not meant to be",
    )
