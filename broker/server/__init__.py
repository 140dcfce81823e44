"""A real nats-server for development, tests and single-machine use: found, started, waited for and never left behind.

One line starts one, JetStream on disk included::

    async with NatsServer() as server:
        print(server.url)

With ``watchdog=Watchdog()`` one that dies is brought back. ``Cluster()`` starts three that replicate.
``python -m broker.server`` does either in the foreground.
"""

from broker.server.binary import Binary, find_nats_server
from broker.server.cluster import Cluster
from broker.server.config import without_store_dir
from broker.server.errors import CrashLoop, InUse, ServerError
from broker.server.node import NatsServer
from broker.server.watchdog import ServerEvent, ServerEventKind, Watchdog

__all__ = [
    "Binary",
    "Cluster",
    "CrashLoop",
    "InUse",
    "NatsServer",
    "ServerError",
    "ServerEvent",
    "ServerEventKind",
    "Watchdog",
    "find_nats_server",
    "without_store_dir",
]
