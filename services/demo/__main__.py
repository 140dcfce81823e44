"""``python -m services.demo``: see ``make demo``. Exit code 0: every battle settled exactly once; 1: it was not."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker import BrokerError
from services.children import ChildFailed
from services.demo.screen import Screen, open_screen
from services.demo.show import Settings, Show
from services.process import run_process

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTERRUPTED: Final = 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.demo", description=__doc__)
    parser.add_argument("--rooms", type=int, default=20, help="default %(default)s")
    parser.add_argument("--players", type=int, default=8, help="per room (default %(default)s)")
    parser.add_argument("--tick-rate", type=int, default=30, help="ticks per second (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of play; starting and settling take about 5 more")
    parser.add_argument("--battle-seconds", type=float, default=None, help="on average (default 4, less in short runs)")
    # A Python process per room would spend two cores on switching between twenty of them.
    parser.add_argument("--rooms-per-process", type=int, default=5, help="default %(default)s")
    parser.add_argument("--command-rate", type=float, default=5.0, help="commands per player and second")
    parser.add_argument("--keep", type=Path, default=None, metavar="DIR", help="keep databases, records and logs there")
    options = parser.parse_args()
    if options.battle_seconds is None:
        options.battle_seconds = min(4.0, options.seconds / 4)
    for name in ("rooms", "players", "tick_rate", "seconds", "battle_seconds", "rooms_per_process", "command_rate"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above zero")
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty: a verdict needs files of one run only")
    return options


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="gamebroker-demo-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()


async def _serve(options: argparse.Namespace, screen: Screen, stop: asyncio.Event) -> int:
    settings = Settings(
        rooms=options.rooms,
        players=options.players,
        tick_rate=options.tick_rate,
        seconds=options.seconds,
        battle_seconds=options.battle_seconds,
        rooms_per_process=options.rooms_per_process,
        command_rate=options.command_rate,
    )
    with _directory(options.keep) as directory:
        store = directory / "jetstream" if options.keep is not None else None
        playing = asyncio.ensure_future(Show(settings, screen, directory, store=store).run())
        asked = asyncio.ensure_future(stop.wait())
        await asyncio.wait({playing, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not playing.done():
            playing.cancel()
            await asyncio.wait({playing})
            screen.say("interrupted")
            return _INTERRUPTED
        try:
            return 0 if playing.result() else 1
        except (ChildFailed, BrokerError) as exc:
            screen.say(f"FAILED: {exc}")
            return 1


def main() -> int:
    """Run the demo; its exit code."""
    options = _options()
    screen = open_screen()
    try:
        return run_process(lambda stop: _serve(options, screen, stop), name="demo", lifeline=False)
    finally:
        screen.close()


if __name__ == "__main__":
    sys.exit(main())
