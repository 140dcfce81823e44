"""Mail: letters to players and claims of what is attached to them. Data only; the player is the subject's."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from services.events.bodies import Named, Positive, Token  # noqa: TC001 - msgspec reads annotations when it decodes

MOST_ATTACHED: Final = 16

Account = Annotated[str, Meta(pattern=r"^(sys|player):[!-~]{1,190}$")]
"""Somebody's account, or one of the game's own; never the escrow."""
Moment = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Nanoseconds since the Unix epoch, until 2262."""


class Asset(Struct, frozen=True, kw_only=True):
    """So many of something; an item that there is once is a currency of its own."""

    currency: Token
    amount: Positive


class Letter(Struct, frozen=True, kw_only=True, tag_field="kind", tag="letter"):
    """A letter to one player.

    Attributes:
        letter_id: unique for ever among the player's; also the idempotency key.
        sender: the account that what is attached comes from, and goes back to when nobody claims it in time.
        expires_at: from when on nothing can be claimed any more.
    """

    v: int = 1
    letter_id: Token
    sender: Account
    title: Annotated[str, Meta(max_length=200)]
    text: Annotated[str, Meta(max_length=4000)] = ""
    attachments: Annotated[tuple[Asset, ...], Meta(max_length=MOST_ATTACHED)] = ()
    sent_at: Moment
    expires_at: Moment


class Claim(Struct, frozen=True, kw_only=True, tag_field="kind", tag="claim"):
    """A player wants what is attached to a letter.

    Attributes:
        claim_id: unique for ever among the player's; also the idempotency key. A repeat changes nothing.
        actor: who asks for the player, for the records.
    """

    v: int = 1
    claim_id: Token
    letter_id: Token
    actor: Named = ""


MailCommand = Letter | Claim
"""What comes on a player's mail subject."""
