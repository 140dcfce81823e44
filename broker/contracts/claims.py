"""What one worker claims in a priority group of its consumer; the group itself is the consumer's affair."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from broker.contracts.checks import in_range
from broker.contracts.errors import InvalidOption

_GROUP: Final = re.compile(r"[A-Za-z0-9/_=-]{1,16}\Z")
_LOWEST: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How a worker asks within a group.

    Attributes:
        group: its name, 1 to 16 of ``A-Z a-z 0-9 - _ / =``.
        min_pending: be served only while at least so many messages wait (policy ``overflow``).
        min_ack_pending: be served only while at least so many are unsettled (policy ``overflow``).
        priority: 0 is served first, 9 last (policy ``prioritized``).

    Raises:
        InvalidOption.
    """

    group: str
    min_pending: int | None = None
    min_ack_pending: int | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        check_group("priority_group", self.group)
        for option, high in (("min_pending", None), ("min_ack_pending", None), ("priority", _LOWEST)):
            if getattr(self, option) is not None:
                in_range(option, getattr(self, option), 0, high, whole=True)


def check_group(option: str, group: object) -> None:
    """Refuse what is no name of a priority group.

    Raises:
        InvalidOption.
    """
    if not isinstance(group, str) or not _GROUP.match(group):
        raise InvalidOption(f"{option}: {group!r} is not 1 to 16 of A-Z a-z 0-9 - _ / =", option=option)


def claim_of(group: str | None, **asked: int | None) -> Claim | None:
    """The claim that options make together; ``None`` when there is none.

    Raises:
        InvalidOption: one that means nothing without a group.
    """
    if group is not None:
        return Claim(group=group, **asked)
    for option, value in asked.items():
        if value is not None:
            raise InvalidOption(f"{option} needs priority_group: it is about a worker's place there", option=option)
    return None
