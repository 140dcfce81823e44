"""What tests on a cluster share."""

from broker import ApiError
from broker.testing.waiting import eventually

_NO_PEERS = 10005


async def declared(sb, *streams):
    """Declare streams with replicas: for a moment, after an election above all, a node may be held for offline."""

    async def placed():
        try:
            await sb.declare(*streams)
        except ApiError as exc:
            if exc.err_code != _NO_PEERS:
                raise
            return False
        return True

    await eventually(placed, within=30)
