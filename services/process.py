"""What every service process does: an event loop, draining on SIGTERM, an end when whoever started it is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from broker import BrokerError
from broker.telemetry import export_from_environment
from services.connection import add_connection_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine

    from broker import Consumption

ORPHANED: Final = 70
"""Exit code of a process whose starter is gone."""


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """The options every service takes."""
    parser.add_argument(
        "--grace", type=float, default=25.0, metavar="SECONDS", help="to finish in after SIGTERM (default %(default)g)"
    )
    parser.add_argument(
        "--lifeline", action="store_true", help="end at once when standard input closes: no orphan of a killed starter"
    )
    add_connection_options(parser)


def run_process(serve: Callable[[asyncio.Event], Coroutine[Any, Any, int | None]], *, name: str, lifeline: bool) -> int:
    """Run ``serve`` until it returns; the event it gets is set by SIGTERM or SIGINT. The exit code (``None``: 0).

    Traces and metrics go where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, if it says so. A broker's or the system's
    error and a missed deadline end the process with one plain sentence; any other is a bug and keeps its traceback.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if lifeline:
        threading.Thread(target=_end_with_starter, name="lifeline", daemon=True).start()
    try:
        stop_exporting = export_from_environment(name)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(_serve_until_stopped(serve)) or 0
        finally:
            stop_exporting()
    except (BrokerError, OSError) as exc:  # a deadline's TimeoutError is an OSError
        print(f"{type(exc).__name__}: {str(exc) or 'not finished in time'}", file=sys.stderr, flush=True)
        return 1


async def stopped(stop: asyncio.Event, consumption: Consumption) -> None:
    """Return when asked to stop. A consumption that ends by itself first ends the process with its error."""
    asked = asyncio.ensure_future(stop.wait())
    ended = asyncio.ensure_future(consumption.wait())
    try:
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
            if not stop.is_set():
                raise BrokerError("the consumption ended by itself")
    finally:
        asked.cancel()
        ended.cancel()
        await asyncio.wait({asked, ended})


async def _serve_until_stopped(serve: Callable[[asyncio.Event], Coroutine[Any, Any, int | None]]) -> int | None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await serve(stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform; asyncio's own loop does as well
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _end_with_starter() -> None:
    # A thread, not a task: it works even while the event loop is blocked or the server does not answer.
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)
