"""When the servers of a cluster have elected another leader, as they say themselves: no client has a part in it.

Followers wait 4 to 9 s, at random, before they stand for election, and again when two stand at once. How long that
takes is theirs; how soon messages are stored afterwards is the library's.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from broker.server.wire import http_get
from loadtest.chaos.settlements import STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from typing import Any

    from broker.server import NatsServer
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_POLL: Final = 0.1
_TIMEOUT: Final = 1.0


@asynccontextmanager
async def watched(stage: Stage, fault: Fault, lost: NatsServer | None = None) -> AsyncIterator[None]:
    """While the block runs, the first other node that says it leads the stream is written down."""
    others = [node for node in stage.servers.cluster.nodes if node is not lost]
    watching = asyncio.ensure_future(_watch(stage, fault, others))
    try:
        yield
    finally:
        await asyncio.wait({watching}, timeout=_TIMEOUT)  # it may be a moment behind whoever else has seen it
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(stage: Stage, fault: Fault, nodes: Sequence[NatsServer]) -> None:
    while True:
        if told := await leading(nodes):
            stage.elected(fault, told)
            return
        await asyncio.sleep(_POLL)


async def leading(nodes: Sequence[NatsServer]) -> str:
    """Which of them leads the stream: it says so itself, and so does another one; empty when none does.

    A node that begins says that it leads before it has asked anybody.
    """
    told = dict(
        zip((str(node.settings.name) for node in nodes), await asyncio.gather(*map(_leader, nodes)), strict=True)
    )
    votes = Counter(filter(None, told.values()))
    return next((name for name, count in votes.items() if count > 1 and told.get(name) == name), "")


async def _leader(node: NatsServer) -> str:
    """Which one leads the stream, as this one says; empty when it says nothing."""
    settings = node.settings
    assert settings.http_port is not None
    try:
        _, said = await http_get(
            settings.host, settings.http_port, "/jsz?accounts=true&streams=true&config=true", timeout=_TIMEOUT
        )
        return next(_leaders(json.loads(said)), "")
    except (OSError, TimeoutError, ValueError):
        return ""


def _leaders(told: dict[str, Any]) -> Iterator[str]:
    for account in told.get("account_details") or ():
        for stream in account.get("stream_detail") or ():
            if stream.get("name") == STREAM:
                yield stream.get("cluster", {}).get("leader", "")
