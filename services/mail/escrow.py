"""Where what is attached to a letter is: with the sender, in escrow, with the player. The rules only.

No ``await``, no clock, no database in this file.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from services.events import MailRecord, Posting, player_account

if TYPE_CHECKING:
    from services.events import Letter

ESCROW: Final = "escrow:mail"
"""The account that holds what is attached and not claimed."""
SWEEPER: Final = "service:mail"
"""Who has letters expire."""


class State(StrEnum):
    """Of a letter."""

    PLAIN = "plain"
    WAITING = "waiting"
    CLAIMED = "claimed"
    EXPIRED = "expired"


WHY_NOT: Final = {
    State.PLAIN: "nothing is attached",
    State.WAITING: "it has expired",  # and nobody has swept it yet
    State.CLAIMED: "it was claimed already",
    State.EXPIRED: "it has expired",
}
"""Why a letter that is in that state cannot be claimed."""


def first_state(letter: Letter) -> State:
    """Of a letter that has just come."""
    return State.WAITING if letter.attachments else State.PLAIN


def moved(letter: Letter, source: str, target: str) -> tuple[Posting, ...]:
    """All that is attached goes from one account to another; adds up to zero."""
    return tuple(
        Posting(account=account, currency=asset.currency, amount=amount)
        for asset in letter.attachments
        for account, amount in ((source, -asset.amount), (target, asset.amount))
    )


def stored(player: str, letter: Letter, at: int) -> MailRecord:
    """A letter came; what is attached went into escrow."""
    return MailRecord(
        record_id=f"store:{player}:{letter.letter_id}",
        at=at,
        actor=letter.sender,
        action="store",
        about=_about(player, letter.letter_id),
        postings=moved(letter, letter.sender, ESCROW),
    )


def claimed(player: str, letter: Letter, claim_id: str, actor: str, at: int) -> MailRecord:
    """The player got what was attached."""
    return MailRecord(
        record_id=f"claim:{player}:{claim_id}",
        at=at,
        actor=actor,
        action="claim",
        about=_about(player, letter.letter_id),
        postings=moved(letter, ESCROW, player_account(player)),
    )


def denied(player: str, letter_id: str, claim_id: str, actor: str, at: int, state: State) -> MailRecord:
    """The player got nothing, because the letter is in that state."""
    return MailRecord(
        record_id=f"claim:{player}:{claim_id}",
        at=at,
        actor=actor,
        action="claim",
        outcome="denied",
        reason=WHY_NOT[state],
        about=_about(player, letter_id),
    )


def expired(player: str, letter: Letter, at: int) -> MailRecord:
    """Nobody claimed it in time; what was attached went back."""
    return MailRecord(
        record_id=f"expire:{player}:{letter.letter_id}",
        at=at,
        actor=SWEEPER,
        action="expire",
        about=_about(player, letter.letter_id),
        postings=moved(letter, ESCROW, letter.sender),
    )


def _about(player: str, letter_id: str) -> tuple[str, ...]:
    return f"player:{player}", f"letter:{letter_id}"
