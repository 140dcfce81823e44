"""What things are called: attribute names, and span names of which there are few.

A subject holds ids (``battle.42.state``), and a tool that groups by name drowns in one name per battle. So names use
a template of the subject; the subject itself is an attribute.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from broker.contracts.subjects import matches, subscribe_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
TEMPLATE: Final = "messaging.destination.template"
GROUP: Final = "messaging.consumer.group.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH: Final = "messaging.batch.message_count"
ERROR: Final = "error.type"

# Ours: the conventions have no names for these, and a prefix of theirs may get a meaning of theirs.
STREAM: Final = "gamebroker.stream"
SEQUENCE: Final = "gamebroker.sequence"
ATTEMPT: Final = "gamebroker.attempt"
DUPLICATE: Final = "gamebroker.duplicate"
REASON: Final = "gamebroker.reason"
CONTEXT_DROPPED: Final = "gamebroker.context_dropped"

_WORD_LENGTH: Final = 20
_CACHED: Final = 4096


@lru_cache(_CACHED)
def template_of(subject: str) -> str:
    """The subject with ``*`` for each token that looks like an id: one with a digit in it, or a very long one."""
    return ".".join("*" if _looks_like_an_id(token) else token for token in subject.split("."))


def _looks_like_an_id(token: str) -> bool:
    return len(token) > _WORD_LENGTH or any("0" <= character <= "9" for character in token)


def by_patterns(patterns: Sequence[str]) -> Callable[[str], str]:
    """A naming by the first pattern that covers a subject, by ``template_of`` where none does."""
    checked = [subscribe_pattern(pattern) for pattern in patterns]

    @lru_cache(_CACHED)
    def name(subject: str) -> str:
        return next((pattern for pattern in checked if matches(pattern, subject)), None) or template_of(subject)

    return name
