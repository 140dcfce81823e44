"""What a JetStream server refuses, as data: its number, its words, what it becomes here, and what to do about it.

The numbers are nats-server's (``server/errors.json``). ``docs/errors.md`` is made from these tables. A number that is
in none of them becomes an ``ApiError`` with both numbers and the server's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from broker.contracts.errors import BrokerError


class Refusal(NamedTuple):
    """One number a server answers with.

    Attributes:
        err_code: the server's own number.
        code: the HTTP-like status beside it.
        kind: the class it becomes.
        description: the server's words; in braces what differs from case to case.
        advice: one sentence on what to do.
        transient: the same call may succeed a moment later.
        about: the ``option`` of a ``FeatureDisabled``, the ``reason`` of a ``BatchRejected``.
    """

    err_code: int
    code: int
    kind: type[BrokerError]
    description: str
    advice: str
    transient: bool = False
    about: str = ""
