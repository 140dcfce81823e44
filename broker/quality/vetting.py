"""Asking the server, once for each event type, whether its promises would hold there."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import (
    ApiError,
    BrokerClosed,
    BrokerError,
    ConnectionLost,
    RequestTimeout,
    StreamNotFound,
    Unauthorized,
)
from broker.contracts.event_errors import QoSViolation
from broker.contracts.qos import QoS
from broker.quality.requirements import of_capture, of_core, of_sending

if TYPE_CHECKING:
    from broker.contracts.admin import StreamInfo
    from broker.contracts.backend import StreamBackend
    from broker.contracts.event_contracts import Contract

log = logging.getLogger("broker.quality")

_TROUBLE: Final = (0.1, 5.0)
"""Seconds between two attempts while the server cannot be asked: the first, and the longest."""


async def stream_of(contract: Contract, backend: StreamBackend) -> StreamInfo:
    """The stream that stores the events.

    Raises:
        QoSViolation: none does.
        ConnectionLost, RequestTimeout, PermissionDenied: it could not be asked.
    """
    name = await backend.find_stream(contract.subject)
    if problems := of_capture(contract, name):
        raise contract.violation(*problems)
    assert name is not None
    try:
        return await backend.stream_info(name)
    except StreamNotFound:  # deleted between the two questions
        raise contract.violation(*of_capture(contract, None)) from None


async def vet(contract: Contract, backend: StreamBackend) -> None:
    """Look whether what is sent under the contract would be kept as it says.

    Raises:
        QoSViolation: it would not; every problem at once.
        ConnectionLost, RequestTimeout, PermissionDenied, ApiError: it could not be found out.
    """
    if contract.qos is QoS.AT_MOST_ONCE:
        name = await backend.find_stream(contract.subject)
        if problems := of_core(contract, name):
            raise contract.violation(*problems, stream=name)
        return
    info = await stream_of(contract, backend)
    if problems := of_sending(contract, info):
        raise contract.violation(*problems, stream=info.name)


class FirstLook:
    """The look that the first ``send`` of a type brings about, in a task of its own, until the server has answered."""

    def __init__(self, contract: Contract, backend: StreamBackend) -> None:
        self._contract = contract
        self._backend = backend
        self._violation: QoSViolation | None = None
        self._task: asyncio.Task[None] | None = None
        self._answered = False

    @property
    def begun(self) -> bool:
        """Whether anybody has looked."""
        return self._answered or self._task is not None

    def begin(self) -> None:
        """Look, beside whoever sends."""
        self._task = asyncio.create_task(self._until_answered(), name=f"vet {self._contract.name}")

    def check(self) -> None:
        """Raises ``QoSViolation`` when that is known."""
        if (known := self._violation) is not None:
            raise self._contract.violation(*known.problems, stream=known.stream)

    async def answered(self, patience: float) -> None:
        """Wait for the answer, for so many seconds at most."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=patience)

    async def again(self) -> None:
        """Look now, and remember what was found; raises as ``vet``."""
        try:
            await vet(self._contract, self._backend)
        except QoSViolation as exc:
            self._violation, self._answered = exc, True
            raise
        self._violation, self._answered = None, True

    async def stop(self) -> None:
        """Ask no more. Idempotent."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _until_answered(self) -> None:
        pause = _TROUBLE[0]
        while True:
            try:
                await self.again()
            except QoSViolation as exc:
                log.error("%s", exc)  # noqa: TRY400 - its text says all; where it was found says nothing
            except (BrokerClosed, Unauthorized):
                pass
            except BrokerError as exc:
                if isinstance(exc, ConnectionLost | RequestTimeout) or (isinstance(exc, ApiError) and exc.transient):
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _TROUBLE[1])
                    continue
                log.warning("%s: whether its promises hold here could not be found out: %s", self._contract.name, exc)
            return
