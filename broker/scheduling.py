"""Storing a message later: what a schedule is checked for, where it waits, and how it is taken back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from broker.contracts.checks import check_moment
from broker.contracts.envelopes import Entry, scheduling
from broker.contracts.errors import EnqueueUnknown, FeatureDisabled, InvalidOption, NoStream
from broker.contracts.options import in_range
from broker.contracts.schedules import KEY, Schedule, Scheduled, check_cron, kept_under
from broker.contracts.subjects import publish_subject, resource_name
from broker.keys import check_key

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.enqueueing import Enqueuer

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = 1_000
_ANY_STREAM: Final = "*"


class Scheduler:
    """Schedules and cancels; the server keeps the time."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer) -> None:
        self._backend = backend
        self._enqueuer = enqueuer

    async def schedule(self, entry: Entry, due: Schedule, key: str, *, stream: str | None, timeout: float) -> Scheduled:
        """Keep the entry until it is due; a schedule of the same key is replaced."""
        check_key(key, "key")
        in_range("timeout", timeout, 0)
        deadline = asyncio.get_running_loop().time() + timeout
        record = self._enqueuer.record(entry)
        home = await self._home(due.target) if stream is None else resource_name(stream, "stream")
        waits = kept_under(home, key)
        # An id of its own: the same message scheduled anew replaces, it is no repeat.
        kept = scheduling(record, due, waits, self._enqueuer.fresh_id(waits), (KEY, key))
        try:
            receipt = await self._enqueuer.store(kept, deadline=deadline)
        except NoStream as exc:
            told = f"stream {home!r} keeps no schedules; declare it with StreamOptions(schedules=True)"
            raise FeatureDisabled(told, option="schedules", subject=due.target, stream=home) from exc
        except EnqueueUnknown as exc:
            raise EnqueueUnknown(
                f"no word from the server: {due.target!r} may be scheduled; schedule it again with key={key!r}, which "
                "replaces it",
                idempotency_key=entry.idempotency_key,
                subject=due.target,
            ) from exc
        return Scheduled(key, due.target, receipt.stream, receipt.sequence)

    async def cancel(self, key: str, *, stream: str | None) -> bool:
        """Whether there was one that waits."""
        check_key(key, "key")
        if stream is not None:
            return await self._forget(resource_name(stream, "stream"), key)
        try:
            home = await self._backend.find_stream(kept_under(_ANY_STREAM, key))
        except InvalidOption:  # several streams keep schedules
            keeping = self._backend.list_streams(kept_under(_ANY_STREAM, key))
            homes = [info.name async for info in keeping if info.config.schedules]
        else:
            homes = [home] if home is not None else []
        return any([await self._forget(home, key) for home in homes])

    async def _home(self, subject: str) -> str:
        home = await self._backend.find_stream(subject)
        if home is None:
            raise NoStream(f"no stream captures {subject!r}; declare one whose subjects match it", subject=subject)
        return home

    async def _forget(self, stream: str, key: str) -> bool:
        purged = await self._backend.purge_stream(stream, subject=kept_under(stream, key), up_to=None, keep=None)
        return purged > 0


def due_when(
    subject: str, *, at: datetime | None, delay: float | None, every: float | None, cron: str | None, zone: str | None
) -> Schedule:
    """The schedule, checked.

    Raises:
        InvalidOption: not exactly one of the four ways to say when, or that one is out of its range.
        InvalidSubject: not a subject to publish to.
    """
    publish_subject(subject)
    given = [
        name for name, value in (("at", at), ("delay", delay), ("every", every), ("cron", cron)) if value is not None
    ]
    if len(given) != 1:
        told = " and ".join(f"{name}=" for name in given) or "none"
        raise InvalidOption(f"exactly one of at=, delay=, every=, cron= says when; given: {told}", option="at")
    if delay is not None:
        in_range("delay", delay, 0)
    if every is not None:
        _check_every(every)
    if cron is not None:
        if not isinstance(cron, str):
            raise InvalidOption(f"cron={cron!r}: must be text with six fields", option="cron")
        check_cron(cron)
    _check_zone(zone, cron)
    return Schedule(subject, None if at is None else _nanoseconds(at), delay, every, cron, zone)


def _check_every(every: float) -> None:
    in_range("every", every, 1)
    if round(every * 1000) != every * 1000:
        raise InvalidOption(f"every={every!r}: must be whole milliseconds", option="every")


def _nanoseconds(at: datetime) -> int:
    check_moment("at", at, since=_EPOCH.year)
    since = at - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * _MICROSECOND


def _check_zone(zone: object, cron: str | None) -> None:
    if zone is None:
        return
    if cron is None:
        raise InvalidOption("zone= goes with cron= only; the other ways need none", option="zone")
    try:
        ZoneInfo(zone)  # type: ignore[arg-type]  # whatever it is, it is refused below
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise InvalidOption(
            f"zone={zone!r}: must be the name of a time zone, such as Europe/Berlin", option="zone"
        ) from None
