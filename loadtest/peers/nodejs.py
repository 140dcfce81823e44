"""nats.js on Node: ``node/client.mjs`` is the client, this process makes its stream and the other ends."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from loadtest.counterpart import GO, OtherProcess
from loadtest.homes import NODE
from loadtest.latency import Latency, Schedule, period_ns
from loadtest.metronome import Metronome
from loadtest.peers.scene import LIMIT, MAX_ACK_PENDING, Scene, main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextmanager
def _client(scene: Scene, workload: str, *, inherited: Sequence[int] = (), **more: Any) -> Iterator[OtherProcess]:
    """Connected and ready to begin."""
    given = {
        "server": scene.url,
        "subject": scene.subject,
        "count": scene.count,
        "size": len(scene.body),
        "depth": scene.depth,
        "token": scene.token,
        "limit": LIMIT,
        **more,
    }
    with OtherProcess([*NODE.command, workload, json.dumps(given)], inherited=inherited) as client:
        yield client


def _result(scene: Scene, client: OtherProcess) -> dict[str, Any]:
    told = client.told()
    scene.seconds = told.get("seconds", 0.0)
    scene.cpu_seconds = told.get("cpu_seconds", 0.0)
    scene.problems += told.get("problems", ["the client died"])
    return told


async def publish(scene: Scene) -> None:
    """``nc.publish`` in bursts of 1,000, until the server has it all."""
    with scene.counter(), _client(scene, "publish") as client:
        client.go()
        _result(scene, client)


async def subscribe(scene: Scene) -> None:
    """A callback."""
    with scene.flood() as flood, _client(scene, "subscribe") as client:
        client.go()
        flood.go()
        _result(scene, client)


async def request(scene: Scene) -> None:
    """``nc.request``."""
    with scene.echo(), _client(scene, "request") as client:
        client.go()
        _result(scene, client)


async def append(scene: Scene) -> None:
    """``js.publish`` with a sliding window: when it is full, wait for the oldest only."""
    with scene.stream(), _client(scene, "append") as client:
        client.go()
        _result(scene, client)


async def consume(scene: Scene) -> None:
    """``consume()`` and ``message.ack()`` for each."""
    with scene.stream(filled=True) as stream:
        with _client(scene, "consume", stream=stream.name, max_ack_pending=MAX_ACK_PENDING) as client:
            client.go()
            told = _result(scene, client)
        scene.expect_settled(stream, "bench", told.get("handled", 0))


async def latency(scene: Scene) -> None:
    """A callback that reads the time; another process sends, paced by a timer both it and this one know."""
    with ExitStack() as stack:
        metronome = stack.enter_context(Metronome())
        receiver = stack.enter_context(_client(scene, "latency", rooms=scene.rooms))
        pacing = {"fd": metronome.fd, "room_count": scene.room_count}
        sender = stack.enter_context(_client(scene, "pace", inherited=[metronome.fd], **pacing))
        receiver.go()
        period = period_ns(scene.room_count)
        sender.say(f"{GO} {metronome.start(period)} {period}")
        took = _result(scene, receiver).get("took", [])
        schedule: Schedule = scene.schedule()
        schedule.lags += sender.told().get("lags", [])
        scene.expect("sent", scene.count, len(schedule.lags))
        scene.late(schedule.lag_ms)
        scene.latency = Latency.of(took, schedule.lag_ms)


if __name__ == "__main__":
    main(
        "nodejs",
        {
            "publish": publish,
            "subscribe": subscribe,
            "request": request,
            "append": append,
            "consume": consume,
            "latency": latency,
        },
    )
