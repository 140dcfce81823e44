"""``Claims`` where answers are lost: what nobody has said is not called refused."""

import pytest

from broker import Claims, ConnectionLost, WriteUnknown


@pytest.fixture
async def bucket(memory_stream_broker):
    return await memory_stream_broker.key_value("claims")


class Lossy:
    """Writes, and tells nobody; nor is anybody told whose it is until the line is there again."""

    def __init__(self, bucket, silent):
        self._bucket = bucket
        self._silent = silent

    async def create(self, *args, **options):
        await self._bucket.create(*args, **options)
        raise WriteUnknown("no word")

    async def get(self, name):
        self._silent -= 1
        if self._silent >= 0:
            raise ConnectionLost("gone")
        return await self._bucket.get(name)


async def test_whose_a_claim_is_is_asked_until_somebody_says(bucket):
    assert await Claims(Lossy(bucket, 3)).claim("mail-1") is True
    assert await Claims(bucket).claim("mail-1") is False


async def test_a_claim_of_which_nobody_says_whose_it_is_is_unknown(bucket):
    with pytest.raises(WriteUnknown):
        await Claims(Lossy(bucket, 10_000)).claim("mail-1", timeout=0.3)
