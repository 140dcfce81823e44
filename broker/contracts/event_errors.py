"""What can be wrong with an event and its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.contracts.errors import BrokerError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Problem(NamedTuple):
    """Why a promise would not hold, and what would make it hold."""

    reason: str
    fix: str


class QoSViolation(BrokerError):
    """A contract's guarantee would not hold here.

    Attributes:
        problems: each a ``reason`` and a ``fix``; all that were found at once.
        reason: of the first.
        fix: of the first.
    """

    def __init__(
        self,
        message: str = "",
        *,
        problems: Sequence[Problem] = (),
        subject: str | None = None,
        stream: str | None = None,
    ) -> None:
        told = "; ".join(f"{reason} (fix: {fix})" for reason, fix in problems)
        super().__init__(": ".join(filter(None, (message, told))), subject=subject, stream=stream)
        self.problems = tuple(problems)

    @property
    def reason(self) -> str:
        """Why the first promise would not hold."""
        return self.problems[0].reason if self.problems else ""

    @property
    def fix(self) -> str:
        """What would make it hold."""
        return self.problems[0].fix if self.problems else ""


class MalformedEvent(DecodeError):
    """What arrived is not the event that its contract declares; trying again is no use."""
