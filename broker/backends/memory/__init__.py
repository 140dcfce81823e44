"""A twin of the real backend that lives in this process, on a clock that a test can drive.

    broker = StreamBroker(MemoryBackend(MemoryHub(clock=ManualClock())))

``memory://name`` connects to the hub of that name in the running event loop; a hub lives while somebody is connected
to it. It behaves as a single NATS server does, with these limits: nothing survives the process, nothing leaves the
event loop, and a hub neither loses connections nor refuses permissions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.backends.memory.backend import MemoryBackend
from broker.backends.memory.clock import Clock, LoopClock, ManualClock
from broker.backends.memory.hub import MemoryHub, shared_hub

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.contracts.options import ConnectOptions

__all__ = ["Clock", "LoopClock", "ManualClock", "MemoryBackend", "MemoryHub", "open_backend"]


async def open_backend(options: ConnectOptions) -> StreamBackend:
    """A connection to the hub that ``memory://`` or ``memory://name`` names."""
    name = options.url.split(",", 1)[0].partition("://")[2].strip("/")
    return MemoryBackend(
        shared_hub(name),
        inbox_prefix=options.inbox_prefix,
        outbound_limit=options.outbound_limit,
        echo=options.echo,
    )
