"""Audit records: what was done or denied, by whom, about what. Data only; the service that did it is the subject's."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from broker import QoS, contract
from services.events.bodies import MOST_PLAYERS, Key, Named

Reference = Annotated[str, Meta(pattern=r"^[a-z]{1,16}:[!-~]{1,200}$")]
"""What a record is about, by kind and id: ``player:ann``, ``letter:l-7``, ``battle:r1-1-1``."""


def player_account(player: str) -> str:
    """The account of what a player has."""
    return f"player:{player}"


class Posting(Struct, frozen=True, kw_only=True):
    """One line of a transaction between accounts; the lines of one add up to zero in every currency."""

    account: Key
    currency: Named
    amount: Annotated[int, Meta(ge=-(2**53), le=2**53)]


class AuditRecord(Struct, frozen=True, kw_only=True):
    """What happened, as the service that did it tells.

    Attributes:
        record_id: unique for ever among the service's; also the idempotency key.
        at: nanoseconds since the Unix epoch.
        actor: who wanted it.
        action: what.
        outcome: denied is told as well as done.
        reason: why it was denied.
        about: players, letters, battles ...
        postings: what changed hands.
    """

    v: int = 1
    record_id: Key
    at: int
    actor: Annotated[str, Meta(max_length=200)]
    action: Named
    outcome: Literal["done", "denied"] = "done"
    reason: Annotated[str, Meta(max_length=200)] = ""
    about: Annotated[tuple[Reference, ...], Meta(max_length=16)] = ()
    postings: Annotated[tuple[Posting, ...], Meta(max_length=MOST_PLAYERS + 1)] = ()


@contract(subject="audit.mail", qos=QoS.EXACTLY_ONCE, key="record_id")
class MailRecord(AuditRecord, frozen=True, kw_only=True):
    """Of the mail service."""


@contract(subject="audit.settlement", qos=QoS.EXACTLY_ONCE, key="record_id")
class SettlementRecord(AuditRecord, frozen=True, kw_only=True):
    """Of the settlement service."""
