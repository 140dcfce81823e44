"""Where events of QoS 2 wait on this machine's disk: which directory, and whether there is a journal at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import InvalidOption
from broker.contracts.event_errors import Problem, QoSViolation

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from broker.contracts.event_contracts import Contract
    from broker.exactly_once import Journal
    from broker.roster import Drainable
    from broker.stream_broker import StreamBroker

VARIABLE: Final = "GAMEBROKER_JOURNAL"
"""Names the directory in which the journals of all servers are."""
_OTHERWISE: Final = f"await sb.keep_journal(directory), or {VARIABLE}, or keep_journal(None) to do without"


class Journaling:
    """The journal of one broker, opened by the first event that needs it."""

    def __init__(
        self, broker: StreamBroker, address: Callable[[], str | None], admit: Callable[[Drainable], None]
    ) -> None:
        self._broker = broker
        self._address = address
        self._admit = admit
        self._journal: Journal | None = None
        self._none = False
        self._opening = asyncio.Lock()

    async def keep(self, directory: str | PathLike[str] | None) -> None:
        """As ``StreamBroker.keep_journal`` promises it."""
        async with self._opening:
            if self._journal is not None:
                told = "keep_journal() comes before the first event of QoS 2: there is a journal already"
                raise InvalidOption(told, option="directory")
            self._none = directory is None
            if directory is not None:
                self._journal = await self._open(Path(directory), None)

    async def journal(self, contract: Contract) -> Journal | None:
        """The journal; ``None`` where there is none.

        Raises:
            QoSViolation: there should be one, and it cannot be kept.
        """
        if self._journal is not None or self._none:
            return self._journal
        async with self._opening:
            if self._journal is None and not self._none:
                directory = default_directory(self._address())
                self._none = directory is None
                if directory is not None:
                    self._journal = await self._open(directory, contract)
                    await _look_beside(directory)
        return self._journal

    async def _open(self, directory: Path, contract: Contract | None) -> Journal:
        try:
            from broker.exactly_once import Journal  # noqa: PLC0415 - an extra, for those who send at QoS 2

            journal = await Journal(directory).open(self._broker)
        except ImportError as exc:
            problem = Problem(f"events of QoS 2 are kept in a journal, and {exc}", "pip install 'gamebroker[sql]'")
            raise _violation(contract, problem) from exc
        except OSError as exc:
            told = f"events of QoS 2 are kept in a journal, and {directory} cannot be used: {exc}"
            raise _violation(contract, Problem(told, _OTHERWISE)) from exc
        self._admit(journal)
        return journal


def default_directory(address: str | None) -> Path | None:
    """Where the journals for a server are unless somebody says otherwise; ``None`` for a twin in memory.

    What such a twin has stored ends with this process; there is nothing that a journal could outlive for it.
    """
    if address is None:
        return None
    own = hashlib.sha256(address.encode()).hexdigest()[:16]
    if top := os.environ.get(VARIABLE):
        return Path(top) / own
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "gamebroker" / own


async def _look_beside(directory: Path) -> None:
    """Say what waits in the directories of other servers and users: it is ours no more once one of them is renamed."""
    from broker.exactly_once.shelf import tell_of_stranded  # noqa: PLC0415 - as the journal, which is open by now

    await asyncio.to_thread(tell_of_stranded, directory)


def _violation(contract: Contract | None, problem: Problem) -> QoSViolation:
    return QoSViolation(problems=[problem]) if contract is None else contract.violation(problem)
