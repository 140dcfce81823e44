"""Errors that only keys and buckets know; where they stand in the tree is said in ``errors.py``."""

from __future__ import annotations

from broker.contracts.errors import SequenceConflict, StreamError, StreamNotFound


class KeyExists(SequenceConflict):
    """The key has a value already; nothing was stored.

    Attributes:
        key: which.
    """

    def __init__(self, message: str = "", *, key: str = "", subject: str | None = None) -> None:
        super().__init__(message, subject=subject)
        self.key = key


class BucketNotFound(StreamNotFound):
    """There is no bucket of that name, or it was deleted (and perhaps made again) while it was watched.

    Attributes:
        bucket: which.
    """

    def __init__(self, message: str = "", *, bucket: str = "", stream: str | None = None) -> None:
        super().__init__(message, stream=stream)
        self.bucket = bucket


class WriteUnknown(StreamError, TimeoutError):
    """No word on a key that was written: it may be stored. Read the key before writing again.

    A write that went through is the key's next revision, greater than ``revision``. A ``put`` may simply be repeated.

    Attributes:
        key: which.
        revision: the one that was expected; ``None`` when none was, 0 when none was to exist.
    """

    def __init__(
        self, message: str = "", *, key: str = "", revision: int | None = None, subject: str | None = None
    ) -> None:
        super().__init__(message, subject=subject)
        self.key = key
        self.revision = revision
