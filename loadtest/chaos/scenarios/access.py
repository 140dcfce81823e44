"""What happens to a client that may do less than the others, or nothing any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker import PermissionDenied, Status, StreamBroker
from loadtest.chaos.histories import Fate
from loadtest.chaos.injecting import Injector
from loadtest.chaos.servers import ACCESS, GUEST, WITHOUT_GUEST
from loadtest.chaos.settlements import Settlement, body_of
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_THIEF: Final = "thief"


async def _guest(stage: Stage) -> StreamBroker:
    async def connect() -> StreamBroker:
        return await StreamBroker.connect(stage.servers.url, name="chaos-guest", user=GUEST, password=GUEST)

    guest: StreamBroker = await stage.insist(connect, "the guest could not connect")
    return guest


class PermissionIsDenied:
    """A guest sends a settlement, and is told at once that it may not; nothing of it is stored."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        guest = await _guest(stage)
        key = f"forbidden-{fault.number}"
        try:
            await Injector(guest, stage.messages).send(key, body_of(Settlement(key, _THIEF, 1000)), Fate.LETTER)
        except PermissionDenied as exc:
            stage.fired(fault, str(exc))
        else:
            raise NotFired("the server has stored what it should have forbidden")
        finally:
            await guest.aclose()


class AuthRevoked:
    """A guest is connected when its credentials are taken away: it is told so, and does not knock for ever."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        guest = await _guest(stage)
        server = stage.servers.one
        try:
            await stage.insist(lambda: server.reload(WITHOUT_GUEST), "the server did not reload")

            async def told() -> bool:
                return guest.status is Status.UNAUTHORIZED

            await stage.shown(told, f"the guest is {guest.status}")
            stage.fired(fault, f"the guest is {guest.status}")
        finally:
            stage.healed(fault)
            await guest.aclose()
            await stage.insist(lambda: server.reload(ACCESS), "the server did not reload")
