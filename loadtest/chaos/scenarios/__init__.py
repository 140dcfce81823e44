"""A small class per kind of fault: it makes it happen, and shows that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from loadtest.chaos.scenarios.access import AuthRevoked, PermissionIsDenied
from loadtest.chaos.scenarios.clusters import FreezeLeader, KillAll, KillLeader, LameDuck, Rolling
from loadtest.chaos.scenarios.consumers import ConsumerDeleted, StreamFull
from loadtest.chaos.scenarios.databases import DatabaseLocked, DatabaseRestarted
from loadtest.chaos.scenarios.losses import BitFlip, StreamDeleted
from loadtest.chaos.scenarios.messages import DupInside, DupOutside, KeyConflict, Malformed, Oversized, Poison
from loadtest.chaos.scenarios.partitions import MinorityClient, Partition
from loadtest.chaos.scenarios.servers import FreezeServer, KillServer, RestartServer
from loadtest.chaos.scenarios.storage import DiskFull, StorageFull
from loadtest.chaos.scenarios.storms import ReconnectStorm, SlowConsumer
from loadtest.chaos.scenarios.workers import Shutdown, WorkerHang, WorkerKill

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage


class Scenario(Protocol):
    """Plays one kind of fault."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """Make it happen, say so when it has (``stage.fired``), undo it, return.

        Raises:
            NotFired: it could not be seen to happen.
        """


SCENARIOS: Final[dict[str, Scenario]] = {
    "kill-server": KillServer(),
    "restart-server": RestartServer(),
    "freeze-server": FreezeServer(),
    "kill-leader": KillLeader(),
    "freeze-leader": FreezeLeader(),
    "rolling": Rolling(),
    "partition": Partition(),
    "minority-client": MinorityClient(),
    "lame-duck": LameDuck(),
    "kill-all": KillAll(),
    "worker-kill": WorkerKill(),
    "worker-hang": WorkerHang(),
    "shutdown": Shutdown(),
    "poison": Poison(),
    "malformed": Malformed(),
    "oversized": Oversized(),
    "dup-inside": DupInside(),
    "dup-outside": DupOutside(),
    "key-conflict": KeyConflict(),
    "consumer-deleted": ConsumerDeleted(),
    "stream-deleted": StreamDeleted(),
    "bit-flip": BitFlip(),
    "storage-full": StorageFull(),
    "disk-full": DiskFull(),
    "stream-full": StreamFull(),
    "db-locked": DatabaseLocked(),
    "db-restarted": DatabaseRestarted(),
    "reconnect-storm": ReconnectStorm(),
    "slow-consumer": SlowConsumer(),
    "permission-denied": PermissionIsDenied(),
    "auth-revoked": AuthRevoked(),
}
"""Kind -> scenario."""
