"""Expecting the id of a stream's last message, where a server survives it.

On a stream with replicas nats-server 2.15.1 survives no message whose expectation does not hold: the stream has no
leader from then on and takes nothing, whoever sends it, and after a restart what was stored was seen to be gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.contracts.errors import RequestTimeout, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.nats.admin import Admin
    from broker.contracts.envelopes import Receipt, Record


async def append_expecting_id(
    admin: Admin, append: Callable[..., asyncio.Future[Receipt]], record: Record, timeout: float
) -> Receipt:
    """Append once it is known that one server alone keeps the stream.

    Raises:
        Unsupported: several do; nothing was sent.
        PermissionDenied: this role may not ask; nothing was sent.
        RequestTimeout: no word on the stream in time; nothing was sent.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            await _refuse_replicated(admin, record.subject)
    except RequestTimeout:
        raise
    except TimeoutError:
        told = f"no word on the stream of {record.subject!r} in {timeout:g} s: nothing was sent"
        raise RequestTimeout(told, subject=record.subject) from None
    return await append(record, timeout=max(0.001, deadline - loop.time()))


async def _refuse_replicated(admin: Admin, subject: str) -> None:
    stream = await admin.find_stream(subject)
    if stream is None:
        return
    replicas = (await admin.stream_info(stream)).config.replicas
    if replicas > 1:
        raise Unsupported(
            f"Expect(last_msg_id=) on stream {stream!r}, which has {replicas} replicas: the server would lose the "
            "stream; expect last_sequence or last_subject_sequence instead",
            subject=subject,
        )
