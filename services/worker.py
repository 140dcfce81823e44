"""A worker process: takes from one declared consumer until it is asked to stop, then finishes what it has in hand."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from broker import StreamBroker
from services.connection import keyed_connection
from services.process import add_process_options, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker import ConsumerOptions, Consumption, StreamOptions
    from services.connection import Ensure

MAX_DELIVER: Final = 100
"""What can never be done is a dead letter at once, so repeats mean a database in trouble: be patient with it."""
BACKOFF: Final = (0.2, 1.0, 5.0, 30.0)


class Worker(Protocol):
    """What a worker process runs."""

    async def start(self) -> Consumption:
        """Begin to work."""

    async def drain(self) -> None:
        """Finish what is in hand."""

    async def abort(self) -> None:
        """Let go of everything without finishing; what was in hand is redelivered. Idempotent, also after a drain."""


async def take(
    broker: StreamBroker,
    consumer: ConsumerOptions,
    handler: Callable[..., Any],
    *,
    ack_wait: float | None = None,
    ensure: Ensure = "verify",
    **more: Any,
) -> Consumption:
    """Consume what that consumer is declared for, under its name; ``more`` is for ``StreamBroker.consume``.

    Args:
        broker: to consume with.
        consumer: as it is declared in ``services.events``.
        handler: as for ``consume``.
        ack_wait: seconds instead of the declared ones.
        ensure: whether the consumer is there already.
        more: options that are no part of the declaration.
    """
    return await broker.consume(
        consumer.filters or (),
        handler,
        durable=consumer.durable,
        queue=consumer.queue,
        stream=consumer.stream,
        max_ack_pending=consumer.max_ack_pending,
        ack_wait=consumer.ack_wait if ack_wait is None else ack_wait,
        ensure=ensure,
        **{"max_deliver": MAX_DELIVER, "backoff": BACKOFF, **more},
    )


def worker_parser(name: str, about: str | None, consumer: ConsumerOptions) -> argparse.ArgumentParser:
    """The options every worker takes, for ``python -m services.<name>``."""
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=about)
    add_process_options(parser)
    parser.add_argument(
        "--ack-wait",
        type=float,
        default=consumer.ack_wait,
        metavar="SECONDS",
        help="until a dead worker's messages go to others",
    )
    return parser


async def run_worker(
    options: argparse.Namespace,
    stop: asyncio.Event,
    make: Callable[[StreamBroker], Worker],
    *,
    name: str,
    streams: Sequence[StreamOptions],
    ready: str,
) -> None:
    """Connect, make the worker, work until ``stop``, drain within the grace.

    Args:
        options: of ``worker_parser``.
        stop: set when asked to stop.
        make: the worker, on a broker that is connected.
        name: of the connection.
        streams: that it takes from and writes to.
        ready: what to say when it works.

    Raises:
        BrokerError: the consumption ended by itself, or never began.
        TimeoutError: it did not finish within the grace.
    """
    async with StreamBroker.connect(**keyed_connection(options), name=name) as broker:
        await broker.declare(*streams, ensure=options.ensure)
        worker = make(broker)
        try:
            consumption = await worker.start()
            print(ready, flush=True)
            await stopped(stop, consumption)
            async with asyncio.timeout(options.grace):
                await worker.drain()
                await broker.drain()
        finally:
            await worker.abort()
