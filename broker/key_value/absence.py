"""What went while a watch was away: keys it has told of that are gone, and whose last word is gone as well."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import StoredMessage
from broker.contracts.errors import ApiError, ConnectionLost, RequestTimeout
from broker.contracts.headers import Headers
from broker.contracts.key_value import OPERATION
from broker.key_value.following import Following

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.contracts.options import ConsumerOptions

_PAUSE: Final = 0.2
_GONE: Final = Headers(((OPERATION, "PURGE"),))


class Absence:
    """The keys a watch has told to have a value, so that it can tell which of them have none any more.

    Args:
        options: of the watch.
        backend: where the bucket is.
    """

    def __init__(self, options: ConsumerOptions, backend: StreamBackend) -> None:
        self._options = replace(options, start="last_per_subject", headers_only=True)
        self._backend = backend
        self._told: set[str] = set()
        self._looking: Following | None = None
        self._ended = False

    def note(self, subject: str, *, deleted: bool) -> None:
        """What the watch tells of a key now."""
        if deleted:
            self._told.discard(subject)
        else:
            self._told.add(subject)

    async def gone(self, revision: int) -> list[StoredMessage]:
        """A word for every key that was told to have a value and of which nothing is stored any more.

        Args:
            revision: of these words: the first one that the watch has not seen. Theirs were not below it, and whatever
                those keys get from now on is above.

        Raises:
            BucketNotFound: it was deleted.
            PermissionDenied, ApiError, BrokerClosed, Unauthorized.
        """
        lost = self._told - await self._stored() if self._told else set()
        now = time.time_ns()
        return [StoredMessage(each, b"", _GONE, self._options.stream or "", revision, now) for each in sorted(lost)]

    async def close(self) -> None:
        """Stop looking: a ``gone`` that waits ends."""
        self._ended = True
        if self._looking is not None:
            await self._looking.close()

    async def _stored(self) -> set[str]:
        """Every subject of which something is stored; after ``close``, those that were told."""
        while not self._ended:
            looking = self._looking = Following(self._options, self._backend)
            found: set[str] = set()
            try:
                await looking.open()
                while not self._ended and not looking.ready.is_set():
                    delivery = await looking.next()
                    if delivery is not None:
                        found.add(delivery.subject)
            except (ConnectionLost, RequestTimeout):
                pass
            except ApiError as exc:
                if not exc.transient:
                    raise
            else:
                if looking.ready.is_set():
                    return found
            finally:
                await looking.close()
            await asyncio.sleep(0 if self._ended else _PAUSE)
        return self._told
