"""What becomes of a message whose handler raised, by the exception it raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from broker.contracts.errors import InvalidOption

OnError = Literal["retry", "dead_letter", "drop", "pause"]
"""retry: another attempt after the backoff, dead-lettered after the last one; what happens without a policy.
dead_letter: into the dead letters at once. drop: never again, and no copy kept. pause: nothing more is begun or asked
for during ``pause_for`` seconds; then the same attempt is made again."""

OnErrors = Mapping[type[Exception], OnError]

_DECISIONS: Final = ("retry", "dead_letter", "drop", "pause")


def check_on_error(on_error: object) -> None:
    """Refuse what is no mapping of exception classes to decisions.

    Raises:
        InvalidOption.
    """
    if not isinstance(on_error, Mapping):
        raise InvalidOption(f"on_error={on_error!r}: must map exception classes to decisions", option="on_error")
    for kind, decision in on_error.items():
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise InvalidOption(f"on_error: {kind!r} is no subclass of Exception", option="on_error")
        if decision not in _DECISIONS:
            told = f"on_error: {kind.__name__} to {decision!r}: must be one of {', '.join(_DECISIONS)}"
            raise InvalidOption(told, option="on_error")


def decide(on_error: OnErrors, error: BaseException) -> OnError:
    """The decision for the most specific class the error is of."""
    return next((on_error[kind] for kind in type(error).__mro__ if kind in on_error), "retry")
