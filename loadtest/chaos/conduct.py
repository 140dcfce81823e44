"""Judges how everybody conducted themselves: I8 to I13. No I/O, and nothing is asked of the library."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from loadtest.chaos import loops
from loadtest.chaos.catalogue import KINDS
from loadtest.chaos.evidence import Struck
from loadtest.chaos.findings import Finding, finding, named

if TYPE_CHECKING:
    from loadtest.chaos.evidence import Evidence, Life
    from loadtest.chaos.plan import Fault

CONNECTED: Final = "connected"
_IN_FLIGHT: Final = 1.0
_MIB: Final = 1 << 20
_WARM: Final = 3
"""Signs of life before memory counts: what a process takes to begin is no growth."""


def judged(found: Evidence) -> list[Finding]:
    """A finding for each."""
    return [
        _never_blocks(found),
        _bounded(found),
        _ends_well(found),
        _recovers(found),
        _no_zombie(found),
        _noticed(found),
    ]


def _never_blocks(found: Evidence) -> Finding:
    held = loops.seen(life.beats[-1][1] for life in found.lives.values() if life.beats)
    if held is None:
        return Finding("I8", loops.PROMISE, None, "no game loop ran")
    return loops.concluded(held, found.plan.limits)


def growth(found: Evidence) -> dict[str, float]:
    """MiB by which each process grew after it had begun, at its highest."""
    grown = {}
    for process, life in found.lives.items():
        weights = [counts["rss"] for _, counts in life.beats if "rss" in counts][_WARM:]
        if weights:
            grown[process] = (max(weights) - weights[0]) / _MIB
    return grown


def _bounded(found: Evidence) -> Finding:
    grown = growth(found)
    promise = "memory is bounded"
    if not grown:
        return Finding("I9", promise, None, "no process lived long enough")
    too_much = {f"{process} by {by:.0f} MiB" for process, by in grown.items() if by > found.plan.limits.growth}
    return finding("I9", promise, named("processes grew", too_much), good=f"at most {max(grown.values()):.0f} MiB more")


def _ends_well(found: Evidence) -> Finding:
    asked = {process: life for process, life in found.lives.items() if life.why == "asked"}
    grace = found.plan.limits.grace
    failed = {f"{process} with {life.code}" for process, life in asked.items() if life.code}
    late = {f"{process} after {life.took:.1f} s" for process, life in asked.items() if life.took > grace}
    longest = max((life.took for life in asked.values()), default=0.0)
    return finding(
        "I10",
        "who is asked to end finishes and ends in time",
        named("ended badly", failed),
        named("ended late", late),
        good=f"{len(asked)} ends, the longest in {longest:.1f} s",
    )


def recoveries(found: Evidence) -> dict[str, list[float]]:
    """Kind of outage -> seconds each one took to be over, while producers were at work."""
    ends = min((life.ended for process, life in found.lives.items() if process.startswith("producer")), default=0.0)
    taken: dict[str, list[float]] = {}
    for fault in found.plan.faults:
        struck = found.faults.get(fault.number, Struck())
        seconds = recovery(found, fault, struck)
        if seconds is None and struck.healed is not None and KINDS[fault.kind].outage:
            if struck.healed + _limit(found, fault.kind) >= ends:
                continue  # nobody had anything to store any more
            seconds = float("inf")
        if seconds is not None:
            taken.setdefault(fault.kind, []).append(seconds)
    return taken


def recovery(found: Evidence, fault: Fault, struck: Struck) -> float | None:
    """Seconds until messages were stored again; ``None``: they never were, or it was no outage.

    After the one server: from when it was there again to the next one stored. After a leader: the longest silence that
    began within a second of its loss, for what it had confirmed may still come in.
    """
    times, kind = found.stored_at, KINDS[fault.kind]
    if struck.healed is None or not kind.outage:
        return None
    at = bisect_left(times, struck.healed)
    if at >= len(times):
        return None
    if kind.outage == "server":
        return times[at] - struck.healed
    last = bisect_left(times, struck.healed + _IN_FLIGHT)
    if last >= len(times):
        return None
    before = [struck.healed, *times[at:last]]
    return max(after - since for since, after in zip(before, times[at : last + 1], strict=True))


def _limit(found: Evidence, kind: str) -> float:
    limits = found.plan.limits
    return limits.recovery if KINDS[kind].outage == "server" else limits.election


def _recovers(found: Evidence) -> Finding:
    promise = "after an outage the next message is stored soon"
    taken = [(seconds, kind) for kind, times in recoveries(found).items() for seconds in times]
    if not taken:
        return Finding("I11", promise, None, "no outage while something was to be stored")
    excused = elections(found)
    slow = {
        f"{kind}: {seconds:.2f} s"
        for seconds, kind in taken
        if seconds > _limit(found, kind) and seconds not in excused
    }
    good = f"{max(taken)[0]:.2f} s at most"
    if long := [f"{seconds:.2f} s, of which the servers' election {of:.2f} s" for seconds, of in excused.items()]:
        good += f"; longer than {found.plan.limits.election:g} s: {', '.join(long)}"
    return finding("I11", promise, named("recoveries took long", slow), good=good)


def elections(found: Evidence) -> dict[float, float]:
    """Recoveries that took too long because the servers themselves did: their seconds -> those of the election.

    Such a one counts as good when the next message was stored as soon after the election as after a restart.
    """
    limits, excused = found.plan.limits, {}
    for fault in found.plan.faults:
        struck = found.faults.get(fault.number, Struck())
        seconds = recovery(found, fault, struck)
        if seconds is None or struck.elected is None or struck.healed is None or seconds <= limits.election:
            continue
        at = bisect_left(found.stored_at, struck.elected)
        if at < len(found.stored_at) and found.stored_at[at] - struck.elected <= limits.recovery:
            excused[seconds] = struck.elected - struck.healed
    return excused


def _no_zombie(found: Evidence) -> Finding:
    alive = found.plan.limits.alive
    silent, adrift = set(), set()
    for process, life in found.lives.items():
        if life.beats and (gap := _longest_silence(found, process, life)) > alive:
            silent.add(f"{process} for {gap:.1f} s")
        if life.why == "asked" and life.statuses and life.statuses[-1][1] not in {CONNECTED, "draining", "closed"}:
            adrift.add(f"{process}: {life.statuses[-1][1]}")
    died = {f"{process} with {life.code}" for process, life in found.lives.items() if life.why == "died"}
    return finding(
        "I12",
        "whoever lives works",
        named("gave no sign of life", silent),
        named("never connected again", adrift),
        named("died by themselves", died),
        good=f"{len(found.lives)} processes",
    )


def _longest_silence(found: Evidence, process: str, life: Life) -> float:
    """Seconds between two signs of life, those aside in which it was stopped on purpose."""
    times = [at for at, _ in life.beats]
    return max(
        (until - since - sum(_overlap(stop, since, until) for stop in _stops(found, process)))
        for since, until in zip(times, [*times[1:], times[-1]], strict=True)
    )


def _stops(found: Evidence, process: str) -> list[tuple[float, float]]:
    return [
        (struck.begun, struck.healed or float("inf"))
        for fault in found.plan.faults
        if fault.kind == "worker-hang" and process.startswith(f"worker-{fault.target}.")
        if (struck := found.faults.get(fault.number)) is not None and struck.begun is not None
    ]


def _overlap(stop: tuple[float, float], since: float, until: float) -> float:
    return max(0.0, min(stop[1], until) - max(stop[0], since))


def _noticed(found: Evidence) -> Finding:
    promise = "a fault shows in the connection's status"
    notice = found.plan.limits.notice
    looked, blind = 0, set()
    for fault in found.plan.faults:
        struck, symptom = found.faults.get(fault.number), KINDS[fault.kind].symptom
        if not symptom or struck is None or struck.fired is None:
            continue
        for process, life in found.lives.items():
            if _could_notice(found, process, life, struck.begun or struck.fired, notice):
                looked += 1
                since = struck.begun or struck.fired
                if not any(since <= at <= struck.fired + notice and told == symptom for at, told in life.statuses):
                    blind.add(_unnoticed(fault, process))
    if not looked:
        return Finding("I13", promise, None, "no fault with a symptom while somebody was connected")
    return finding("I13", promise, named("not noticed", blind), good=f"{looked} times noticed")


def _could_notice(found: Evidence, process: str, life: Life, since: float, notice: float) -> bool:
    before = [told for at, told in life.statuses if at < since]
    stopped = any(_overlap(stop, since, since + notice) for stop in _stops(found, process))
    return bool(before) and before[-1] == CONNECTED and life.ended > since + notice and not stopped


def _unnoticed(fault: Fault, process: str) -> str:
    return f"{fault.kind} number {fault.number} by {process}"
