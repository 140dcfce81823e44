"""No client at all: bytes made beforehand on a blocking socket, the least that can be done. What others are a share of.

It parses only what it must: acks and replies are counted by their first word, a message to ack is found by the
subject of its ack. So ``subscribe`` and ``request`` do less than any client could.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING, Final

from loadtest.counterpart import READY, Tally
from loadtest.latency import since_due
from loadtest.metronome import Metronome
from loadtest.peers.scene import MAX_ACK_PENDING, PACE, Scene, main
from loadtest.raw import PONG, RawConnection, hpub, pub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PER_WRITE: Final = 1 << 16
_PULL: Final = 500
_ACK_SUBJECT: Final = re.compile(rb"\$JS\.ACK\.[^ ]+ ")
_CUT_SHORT: Final = re.compile(rb"\$[^ \r\n]*$")


async def publish(scene: Scene) -> None:
    """Write frames, 64 KiB at a time, until the server has it all."""
    frame = pub(scene.subject, scene.body)
    many = max(1, _PER_WRITE // len(frame))
    chunk = frame * many
    with scene.counter(), RawConnection(scene.url) as raw, scene.measured():
        for _ in range(scene.count // many):
            raw.send(chunk)
        raw.send(frame * (scene.count % many))
        raw.sync()


async def subscribe(scene: Scene) -> None:
    """Count messages in the bytes."""
    with scene.flood() as flood, RawConnection(scene.url) as raw:
        raw.subscribe(scene.subject)
        tally = Tally()
        with scene.measured():
            flood.go()
            while tally.count < scene.count:
                tally.feed(raw.receive())


async def request(scene: Scene) -> None:
    """A new request for every reply."""
    with scene.echo(), RawConnection(scene.url) as raw:
        inbox = f"_INBOX.{scene.token}"
        raw.subscribe(f"{inbox}.*")
        _windowed(scene, raw, [pub(scene.subject, scene.body, f"{inbox}.{index}") for index in range(scene.count)])


async def append(scene: Scene) -> None:
    """A new message for every ack that came."""
    with scene.stream(), RawConnection(scene.url) as raw:
        inbox = f"_INBOX.{scene.token}"
        raw.subscribe(f"{inbox}.*")
        frames = [
            hpub(scene.subject, "Nats-Msg-Id", key, scene.body, f"{inbox}.{index}")
            for index, key in enumerate(scene.ids)
        ]
        _windowed(scene, raw, frames)


def _windowed(scene: Scene, raw: RawConnection, frames: Sequence[bytes]) -> None:
    """Keep ``depth`` frames unanswered."""
    tally = Tally()
    sent = min(scene.depth, len(frames))
    with scene.measured():
        raw.send(b"".join(frames[:sent]))
        while tally.count < len(frames):
            chunk = raw.receive()
            tally.feed(chunk)
            if chunk.endswith(b"PING\r\n"):
                raw.send(PONG)
            upto = min(tally.count + scene.depth, len(frames))
            if upto > sent:
                raw.send(b"".join(frames[sent:upto]))
                sent = upto


async def consume(scene: Scene) -> None:
    """Two pulls of 500 under way, an ack for every message."""
    with scene.stream(filled=True) as stream, RawConnection(scene.url) as raw:
        inbox = f"_INBOX.{scene.token}"
        raw.subscribe(inbox)
        with scene.measured():
            config = {"durable_name": "bench", "ack_policy": "explicit", "max_ack_pending": MAX_ACK_PENDING}
            raw.request(f"$JS.API.CONSUMER.CREATE.{stream.name}.bench", {"stream_name": stream.name, "config": config})
            pull = pub(f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.bench", b'{"batch":%d}' % _PULL, inbox)
            handled = _acked(raw, pull, scene.count)
            raw.sync()
        scene.expect_settled(stream, "bench", handled)


def _acked(raw: RawConnection, pull: bytes, count: int) -> int:
    handled, asked, rest = 0, 2 * _PULL, b""
    raw.send(pull * 2)
    while handled < count:
        data = rest + raw.receive()
        subjects = _ACK_SUBJECT.findall(data)
        cut = _CUT_SHORT.search(data, max(0, len(data) - 512))
        rest = cut.group() if cut else b""
        handled += len(subjects)
        out = [b"PUB %b0\r\n\r\n" % subject for subject in subjects]
        while asked - handled <= _PULL and asked < count:
            out.append(pull)
            asked += _PULL
        raw.send(b"".join(out))
    return handled


async def latency(scene: Scene) -> None:
    """Read, find the bodies, read the time."""
    with RawConnection(scene.url) as raw:
        raw.subscribe(scene.rooms)
        took: list[int] = []
        with scene.sender("rawsocket") as sender:
            with scene.measured():
                sender.go()
                _arrivals(raw, len(scene.body), scene.count, lambda body: took.append(since_due(body)))
            scene.saw(took, sender.told())


def _arrivals(raw: RawConnection, size: int, count: int, note: Callable[[bytes], None]) -> None:
    seen, rest = 0, b""
    while seen < count:
        data = rest + raw.receive()
        position = 0
        while (stop := data.find(b"\r\n", position)) >= 0:
            body = stop + 2
            if data.startswith(b"MSG", position):
                if len(data) < body + size + 2:
                    break
                note(data[body : body + size])
                seen += 1
                body += size + 2
            position = body
        rest = data[position:]


async def pace(scene: Scene) -> None:
    """Write what is due, all at once, then wait for the next."""
    schedule = scene.schedule()
    with RawConnection(scene.url) as raw, Metronome() as metronome:
        print(READY, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        written = b""
        for subject, due in schedule.plan(metronome):
            while time.monotonic_ns() < due:
                raw.send(written)
                written = b""
                metronome.wait()
            written += pub(subject, schedule.body(due))
        raw.send(written)
        raw.sync()
    scene.late(schedule.lag_ms)


if __name__ == "__main__":
    main(
        "rawsocket",
        {
            "publish": publish,
            "subscribe": subscribe,
            "request": request,
            "append": append,
            "consume": consume,
            "latency": latency,
            PACE: pace,
        },
    )
