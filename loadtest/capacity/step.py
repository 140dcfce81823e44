"""One step of the search: so many rooms in one room process, players at gateways in others, measured for a while."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loadtest.capacity.histogram import Histogram
from loadtest.capacity.limits import Step, Times
from loadtest.capacity.usage import cpu_seconds
from services.children import Child, ChildFailed, Children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.server import NatsServer

_POLL: Final = 0.02
_START: Final = 60.0
"""Seconds until all processes run and every room was seen; a busy machine needs some for hundreds of rooms."""
_PATIENCE: Final = 30.0
_BATTLE_SECONDS: Final = 600
"""Longer than a step: settling battles is measured elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all steps have in common; times in seconds."""

    players: int = 10
    tick_rate: int = 30
    seconds: float = 5.0
    warm_up: float = 1.5
    generators: int = 1


async def measure(server: NatsServer, rooms: int, setting: Setting) -> Step:
    """Start the processes, measure, end them. What goes wrong with them makes the step void."""
    with (
        tempfile.TemporaryDirectory(prefix="gamebroker-capacity-", ignore_cleanup_errors=True) as directory,
        Children(Path(directory), server.url) as children,
    ):
        try:
            return await _Trial(server, children, Path(directory), rooms, setting).run()
        except ChildFailed as exc:
            return Step(rooms=rooms, players=setting.players, cpu={}, problem=str(exc))


class _Trial:
    def __init__(self, server: NatsServer, children: Children, directory: Path, rooms: int, setting: Setting) -> None:
        self._server = server
        self._children = children
        self._record = directory / "rooms.jsonl"
        self._rooms = [f"room-{number}" for number in range(1, rooms + 1)]
        self._setting = setting

    async def run(self) -> Step:
        """The step.

        Raises:
            ChildFailed: a process ended, or was not ready in time.
        """
        generators = [self._generator(number) for number in range(min(self._setting.generators, len(self._rooms)))]
        await self._children.ready(generators, _START)
        room = self._room_process()
        await room.ready(_START)
        pids = {"server": self._server.pid, "room": room.process.pid}
        pids |= {each.name: each.process.pid for each in generators}
        everyone = [room, *generators]
        await _until(lambda: all(_said(each, "measuring") for each in generators), everyone, _START)
        began, used = time.monotonic(), _used(pids)
        until = self._setting.seconds + _PATIENCE
        await _until(lambda: all(_said(each, "measured {") for each in generators), everyone, until)
        ended, used_after = time.monotonic(), _used(pids)
        await _until(lambda: any(line["at"] >= ended for line in self._totals()), everyone, _PATIENCE)
        cpu = {name: (after - used[name]) / (ended - began) for name, after in used_after.items() if name in used}
        return self._judge([_numbers(each) for each in generators], began, ended, _worst(cpu))

    def _judge(self, told: Sequence[dict[str, Any]], began: float, ended: float, cpu: dict[str, float]) -> Step:
        # The rooms write down their totals once a second: the first look after the beginning and after the end.
        lines = self._totals()
        before = next(line for line in lines if line["at"] >= began)
        after = next(line for line in lines if line["at"] >= ended)
        taken = after["commands"].get("accepted", 0) - before["commands"].get("accepted", 0)
        lags = [Histogram.of(_parsed(each[name]) for name in ("lags", "beats")) for each in told]
        return Step(
            rooms=len(self._rooms),
            players=self._setting.players,
            seconds=round(ended - began, 2),
            frame_hop=_times(Histogram.of(_parsed(each["hops"]) for each in told)),
            command_hop=_times(Histogram.between(before["batch_hop_counts"], after["batch_hop_counts"])),
            lateness=Histogram.between(before["late_counts"], after["late_counts"]).quantile(0.99),
            skipped=after["skipped"] - before["skipped"],
            cpu=cpu,
            lag=max(each.quantile(0.99) for each in lags),
            generator_skipped=sum(each["skipped"] for each in told),
            frames=sum(each["shown"] for each in told),
            lost=sum(each["lost"] for each in told),
            superseded=sum(each["superseded"] for each in told),
            sent=sum(each["sent"] for each in told),
            commands=taken,
        )

    def _totals(self) -> list[dict[str, Any]]:
        lines = self._record.read_bytes().splitlines(keepends=True) if self._record.exists() else []
        found = [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]
        return [line for line in found if line["op"] == "totals"]

    def _room_process(self) -> Child:
        setting = self._setting
        options = {
            "--rooms": ",".join(self._rooms),
            "--players": setting.players,
            "--tick-rate": setting.tick_rate,
            "--battle-seconds": _BATTLE_SECONDS,
            "--stats": self._record,
        }
        return self._children.start("room", "services.game_room", *_flat(options))

    def _generator(self, number: int) -> Child:
        setting = self._setting
        options = {
            "--name": f"generator-{number + 1}",
            "--rooms": ",".join(self._rooms[number :: setting.generators]),
            "--tick-rate": setting.tick_rate,
            "--warm-up": setting.warm_up,
            "--seconds": setting.seconds,
        }
        return self._children.start(f"generator-{number + 1}", "loadtest.capacity.generator", *_flat(options))


async def _until(condition: Callable[[], bool], children: Sequence[Child], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        for child in children:
            if not child.running:
                raise ChildFailed(child.obituary())
        if time.monotonic() > deadline:
            raise ChildFailed(f"nothing was measured in {timeout:g} s")
        await asyncio.sleep(_POLL)


def _said(child: Child, words: str) -> bool:
    return words.encode() in child.log.read_bytes()


def _numbers(generator: Child) -> dict[str, Any]:
    lines = generator.log.read_text("utf-8").splitlines()
    told: dict[str, Any] = msgspec.json.decode(
        next(line for line in lines if line.startswith("measured ")).removeprefix("measured ")
    )
    return told


def _used(pids: dict[str, int | None]) -> dict[str, float]:
    used = {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}
    return {name: seconds for name, seconds in used.items() if seconds is not None}


def _worst(cpu: dict[str, float]) -> dict[str, float]:
    """One figure for all generators: that of the busiest."""
    busiest = [share for name, share in cpu.items() if name.startswith("generator")]
    found = {name: round(cpu[name], 3) for name in ("server", "room") if name in cpu}
    return found | ({"generator": round(max(busiest), 3)} if busiest else {})


def _parsed(counts: dict[str, int]) -> Histogram:
    return Histogram.between({}, counts)


def _times(histogram: Histogram) -> Times:
    return Times(p50=histogram.quantile(0.5), p99=histogram.quantile(0.99), max=histogram.max)


def _flat(options: dict[str, object]) -> list[str]:
    return [str(part) for option in options.items() for part in option]
