"""Storing a batch all or nothing, and finding out whether it is in when the server's word was lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from broker.attempts import Attempts
from broker.contracts.envelopes import Entry
from broker.contracts.errors import (
    ApiError,
    BatchRejected,
    BrokerClosed,
    BrokerError,
    ConnectionLost,
    EnqueueUnknown,
    FeatureDisabled,
    InvalidKey,
    InvalidOption,
    NoResponders,
    NoStream,
    RequestTimeout,
    SequenceConflict,
    Unauthorized,
    Unsupported,
)
from broker.contracts.options import in_range
from broker.keys import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Receipt, Record

MOST_ENTRIES: Final = 1000
"""What a server takes in one batch by default."""


def batch_of(entries: Sequence[Entry], record: Callable[[Entry], Record]) -> list[Record]:
    """The records of a batch, checked as a whole.

    Raises:
        InvalidOption: not 1 to 1000 entries; an expectation that no batch may have.
        InvalidKey: two entries are the same message.
        InvalidSubject, InvalidHeader, EncodeError: an entry is malformed; a note on the error says which.
    """
    if isinstance(entries, str | bytes) or not hasattr(entries, "__len__"):
        raise InvalidOption(f"entries={entries!r}: must be a sequence of Entry", option="entries")
    in_range("len(entries)", len(entries), 1, MOST_ENTRIES, whole=True)
    records: list[Record] = []
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, Entry):
                raise InvalidOption(f"{entry!r} is not an Entry", option="entries")
            records.append(record(entry))
        except BrokerError as exc:
            exc.add_note(f"entry {index} of the batch")
            raise
    _check_keys(records)
    _check_expectations(records)
    return records


def _check_keys(records: Sequence[Record]) -> None:
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        first = seen.setdefault(record.message_id, index)
        if first != index:
            raise InvalidKey(f"entries {first} and {index} of the batch have the same key on {record.subject!r}")


def _check_expectations(records: Sequence[Record]) -> None:
    """What the server refuses in any batch, before it is sent."""
    written: dict[str, int] = {}
    for index, record in enumerate(records):
        expect = record.expect
        if expect is not None:
            if expect.last_msg_id is not None:
                _refuse(index, "last_msg_id", "no entry of a batch may expect it")
            if expect.last_sequence is not None and index:
                _refuse(index, "last_sequence", "only the first entry of a batch may expect it")
            over = expect.subject_filter or record.subject
            if expect.last_subject_sequence is not None and over in written:
                _refuse(index, "last_subject_sequence", f"entry {written[over]} of the same batch writes to {over!r}")
        written.setdefault(record.subject, index)


def _refuse(index: int, option: str, why: str) -> None:
    raise InvalidOption(f"entry {index}: expect.{option}: {why}", option="expect")


class AtomicStoring(Attempts):
    """One batch on its way into a stream.

    Args:
        backend: where to.
        records: what; checked by ``batch_of``.
        deadline: by the event loop's clock.
    """

    def __init__(self, backend: StreamBackend, records: Sequence[Record], deadline: float) -> None:
        super().__init__(backend, records[-1].subject, deadline)
        self._records = records
        claims = backend.capabilities
        if not (claims.reports_duplicates and claims.expects_sequences):
            raise Unsupported("an atomic batch needs a backend that drops repeats and checks expectations")

    async def receipts(self) -> list[Receipt]:
        """One for each record, in order; ``duplicate`` when all of them were stored before, by us or by others.

        Raises:
            BatchRejected, SequenceConflict, NoStream, StreamFull, FeatureDisabled, PayloadTooLarge, PermissionDenied,
                ApiError: nothing of it was stored.
            EnqueueUnknown: all of it may be stored.
            BrokerClosed, Unauthorized: before anything was sent.
        """
        try:
            return await self._seen_through()
        finally:
            await self._forget()

    async def _seen_through(self) -> list[Receipt]:
        stats, last = self._backend.stats, None
        while True:
            try:
                receipts: Sequence[Receipt] | None
                receipts = await self._backend.append_atomic(self._records, timeout=self._time_left(last))
            except EnqueueUnknown:
                raise
            except (BrokerClosed, Unauthorized) as exc:
                if last is None:
                    raise
                raise self._unknown() from exc
            except BrokerError as exc:
                last = exc
                receipts = await self._weigh_batch(exc)
            if receipts is not None:
                stats.enqueued += len(receipts)
                stats.duplicates += sum(receipt.duplicate for receipt in receipts)
                return list(receipts)
            await self._rest()

    async def _weigh_batch(self, error: BrokerError) -> Sequence[Receipt] | None:
        """Receipts when the batch turns out to be stored, ``None`` to send it again; raises what it comes to else."""
        if isinstance(error, NoResponders | ConnectionLost | RequestTimeout):
            self._home = None
            await self._weigh(error)
            if self._home is not None:
                await self._refuse_lanes(self._home)
        elif isinstance(error, BatchRejected) and error.reason == "incomplete":
            await self._check_one_stream()
        elif isinstance(error, BatchRejected) and error.reason == "duplicate":
            return self._all_of(await self._look_up(), error)
        elif not (isinstance(error, ApiError) and error.transient):
            if not self._may_be_stored:
                raise self._told(error)
            # An attempt whose answer was lost may be what stands in the way of this one.
            found = await self._look_up()
            if found is None or len(found) == len(self._records):
                return self._all_of(found, error)
            raise self._unknown() from error
        return None

    def _all_of(self, found: dict[int, Receipt] | None, error: BrokerError) -> Sequence[Receipt] | None:
        if not found:  # nobody could say, or the repeat is still on its way into the stream: ask again
            return None
        if len(found) == len(self._records):
            return [found[index] for index in sorted(found)]
        first = min(found)
        record = self._records[first]
        raise BatchRejected(
            f"entry {first} of the batch was stored before (key {key_of(record)!r} on {record.subject!r}, sequence "
            f"{found[first].sequence}), as {len(found)} of {len(self._records)} were; nothing of the batch was stored",
            reason="duplicate",
            index=first,
            stored=found,
            subject=record.subject,
            stream=found[first].stream,
        ) from error

    async def _look_up(self) -> dict[int, Receipt] | None:
        """Which of the records are stored, by index; ``None`` when the server did not say it of every one."""
        left = self._deadline - self._clock()
        if left <= 0:
            return None
        asked = [self._backend.look_up(record, timeout=left) for record in self._records]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        closed = next((answer for answer in answers if isinstance(answer, BrokerClosed | Unauthorized)), None)
        if closed is not None:
            raise self._unknown() from closed
        found: dict[int, Receipt] = {}
        for index, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                return None
            if answer is not None:
                found[index] = answer
        return found

    async def _check_one_stream(self) -> None:
        """The server lacks entries: because they went elsewhere, or because something broke (then again)."""
        homes: dict[str, int] = {}
        for subject, index in {
            record.subject: index for index, record in reversed([*enumerate(self._records)])
        }.items():
            try:
                async with asyncio.timeout_at(self._deadline):
                    home = await self._find_stream(subject)
            except (BrokerClosed, Unauthorized) as exc:
                raise self._unknown() from exc
            except (TimeoutError, BrokerError):
                return
            if home is None:
                told = NoStream(f"no stream captures {subject!r}; declare one whose subjects match it", subject=subject)
                told.add_note(f"entry {index} of the batch")
                raise told
            homes.setdefault(home, index)
        if len(homes) > 1:
            index = max(homes.values())
            subject, names = self._records[index].subject, ", ".join(sorted(homes))
            raise BatchRejected(
                f"entry {index} ({subject!r}): a batch goes into one stream, these entries belong to {names}",
                reason="streams",
                index=index,
                subject=subject,
            )

    async def _refuse_lanes(self, home: str) -> None:
        """A stream with lanes files one message at a time: it captures the subject, and no batch ever reaches it."""
        try:
            async with asyncio.timeout_at(self._deadline):
                lanes = (await self._backend.stream_info(home)).config.lanes
        except (BrokerClosed, Unauthorized) as exc:
            raise self._unknown() from exc
        except (TimeoutError, BrokerError):
            return
        if lanes is not None:
            raise FeatureDisabled(
                f"stream {home!r} has lanes and takes no batch: enqueue its messages one by one, which keeps the order "
                "of each ordering_key, or declare a stream without lanes for what must be stored together",
                option="lanes",
                subject=self._subject,
                stream=home,
            )

    def _told(self, error: BrokerError) -> BrokerError:
        """The same error, naming the entry it is about where that is certain."""
        if isinstance(error, SequenceConflict):
            expecting = [index for index, record in enumerate(self._records) if record.expect is not None]
            if len(expecting) == 1:
                error.index = expecting[0]
                error.subject = self._records[error.index].subject
                error.add_note(f"entry {error.index} of the batch")
        elif isinstance(error, BatchRejected) and error.reason == "disabled":
            error.add_note("declare the stream with StreamOptions(atomic=True)")
        return error

    def _unknown(self) -> EnqueueUnknown:
        keys = [key_of(record) for record in self._records]
        return EnqueueUnknown(
            f"no word from the server on a batch of {len(keys)}: all of it may be stored, or nothing; enqueue it again "
            "with the same keys (idempotency_keys)",
            idempotency_key=keys[0],
            idempotency_keys=keys,
            subject=self._records[0].subject,
        )
