"""A room's two subjects: of its frames, and the one on which its owner answers with its state now."""

from __future__ import annotations

from typing import Final

from broker.contracts.errors import InvalidSubject
from broker.contracts.subjects import MAX_SUBJECT_BYTES, publish_subject

_SNAPSHOT: Final = ".snapshot"
_LONGEST: Final = MAX_SUBJECT_BYTES - len(_SNAPSHOT)


def snapshot_subject(subject: str) -> str:
    """Where readers ask for the state now: the room's subject and one more token."""
    return subject + _SNAPSHOT


def room_subject(subject: str) -> str:
    """The subject itself when a room's frames can go there and its readers can ask.

    Raises:
        InvalidSubject: nothing to publish to, or so long that the one for questions would be none.
    """
    publish_subject(subject)
    if len(subject.encode()) > _LONGEST:
        raise InvalidSubject(
            f"state subject is over {_LONGEST} bytes, which leaves no room for {_SNAPSHOT!r} "
            f"in {MAX_SUBJECT_BYTES}: {subject[:60]!r}...",
            subject=subject,
        )
    return subject
