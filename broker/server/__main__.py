"""``python -m broker.server``: a server, or a cluster, in the foreground until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import BrokerError
from broker.server.cluster import Cluster
from broker.server.errors import ServerError
from broker.server.node import NatsServer
from broker.server.ports import check_ports
from broker.server.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT_PORT: Final = 4222
"""Where clients look for a server that nobody named."""
HOST: Final = "127.0.0.1"


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m broker.server") -> int:
    """Returns the exit code: 0 after a signal, 1 when a server could not be started or ended by itself.

    A single server that ends is brought back, unless it does so again and again.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="A server, or a cluster, in the foreground until SIGINT or SIGTERM; prints its URL."
    )
    parser.add_argument("--store", metavar="DIR", help="keep what is stored here; without, it is gone at the end")
    parser.add_argument(
        "--port",
        type=int,
        default=CLIENT_PORT,
        metavar="N",
        help=f"for clients; a cluster takes N, N+1 ...; default: {CLIENT_PORT}, and 0 takes what is free",
    )
    parser.add_argument("--cluster", type=int, metavar="N", help="start a cluster of N nodes")
    asked = parser.parse_args(arguments)
    port = asked.port or None
    try:
        server: NatsServer | Cluster
        if asked.cluster is not None:
            server = Cluster(asked.cluster, store_dir=asked.store, port=port)
        else:
            # On loopback like the rest of it; the watchdog sees there how much is stored.
            server = NatsServer(asked.store, port=port, monitoring=True, watchdog=Watchdog())
        if port is not None:
            check_ports(range(port, port + (asked.cluster or 1)), HOST)
        return asyncio.run(_serve(server))
    except BrokerError as failed:
        sys.stderr.write(f"{failed}\n")
        return 1


async def _serve(server: NatsServer | Cluster) -> int:
    me = asyncio.current_task()
    assert me is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with server:
            sys.stdout.write(f"{server.url}\n")
            sys.stdout.flush()
            await _first_end(server)
            raise ServerError("a nats-server ended by itself")
    return 0


async def _first_end(server: NatsServer | Cluster) -> None:
    nodes = server.nodes if isinstance(server, Cluster) else [server]
    waits = [asyncio.ensure_future(node.wait()) for node in nodes]
    try:
        ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in ended:
            each.result()
    finally:
        for wait in waits:
            wait.cancel()


if __name__ == "__main__":
    raise SystemExit(main())
