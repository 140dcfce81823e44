"""The conformance suite: what a backend must do to be one, as importable classes of small named tests.

A backend gives one fixture and inherits from every class::

    @pytest_asyncio.fixture
    async def connect():
        ...  # an async function: connect(**options) -> StreamBroker, on a fresh, empty server; see Connect

    class TestConsume(ConsumeConformance): ...

The fixtures ``restart`` and ``url`` are asked for only where a capability that needs them is claimed.
"""

from broker.testing.conformance.atomic import AtomicConformance
from broker.testing.conformance.bad_input import BadInputConformance
from broker.testing.conformance.bad_options import BadOptionsConformance
from broker.testing.conformance.batching import BatchConformance
from broker.testing.conformance.capabilities import CapabilitiesConformance
from broker.testing.conformance.catching_up import CatchUpConformance
from broker.testing.conformance.consuming import ConsumeConformance, ConsumerAdminConformance
from broker.testing.conformance.contracts import ContractConformance
from broker.testing.conformance.core import CoreConformance
from broker.testing.conformance.counting import CountConformance
from broker.testing.conformance.dead_letters import DeadLetterConformance
from broker.testing.conformance.draining import DrainConformance
from broker.testing.conformance.enqueueing import EnqueueConformance, EnqueueManyConformance
from broker.testing.conformance.events import EventConformance
from broker.testing.conformance.failing import FailureConformance
from broker.testing.conformance.filtering import FilterConformance
from broker.testing.conformance.forgetting import ForgetConformance
from broker.testing.conformance.key_value import KeyValueConformance
from broker.testing.conformance.lane_failures import LaneFailuresConformance
from broker.testing.conformance.lane_reading import LaneReadsConformance
from broker.testing.conformance.lanes import LanesConformance
from broker.testing.conformance.lifecycle import LifecycleConformance
from broker.testing.conformance.loops import LoopConformance
from broker.testing.conformance.managing import ManagedStreamConformance
from broker.testing.conformance.managing_consumers import ManagedConsumerConformance
from broker.testing.conformance.opening import OpeningConformance
from broker.testing.conformance.ordering import OrderingConformance
from broker.testing.conformance.pacing import PaceConformance
from broker.testing.conformance.pulling import PullConformance
from broker.testing.conformance.pushing import PushConformance
from broker.testing.conformance.reading import ReadConformance
from broker.testing.conformance.request_reply import RequestReplyConformance
from broker.testing.conformance.rescheduling import RescheduleConformance
from broker.testing.conformance.rescheduling_trouble import RescheduleTroubleConformance
from broker.testing.conformance.runs import RunConformance
from broker.testing.conformance.scene import Conformance, Connect, Restart
from broker.testing.conformance.scheduling import ScheduleConformance, TimeToLiveConformance
from broker.testing.conformance.settlement import SettlementConformance
from broker.testing.conformance.state import StateConformance
from broker.testing.conformance.streams import StreamConformance
from broker.testing.conformance.subscribing import SubscribeConformance
from broker.testing.conformance.sweeping import SweepConformance
from broker.testing.conformance.watching import WatchConformance
from broker.testing.conformance.without_sql import WithoutSqlConformance

ALL = (
    AtomicConformance,
    BadInputConformance,
    BadOptionsConformance,
    BatchConformance,
    CapabilitiesConformance,
    CatchUpConformance,
    ConsumeConformance,
    ConsumerAdminConformance,
    ContractConformance,
    CoreConformance,
    CountConformance,
    DeadLetterConformance,
    DrainConformance,
    EnqueueConformance,
    EnqueueManyConformance,
    EventConformance,
    FailureConformance,
    FilterConformance,
    ForgetConformance,
    KeyValueConformance,
    LaneFailuresConformance,
    LaneReadsConformance,
    LanesConformance,
    LifecycleConformance,
    LoopConformance,
    ManagedConsumerConformance,
    ManagedStreamConformance,
    OpeningConformance,
    OrderingConformance,
    PaceConformance,
    PullConformance,
    PushConformance,
    ReadConformance,
    RequestReplyConformance,
    RescheduleConformance,
    RescheduleTroubleConformance,
    RunConformance,
    ScheduleConformance,
    SettlementConformance,
    StateConformance,
    StreamConformance,
    SubscribeConformance,
    SweepConformance,
    TimeToLiveConformance,
    WatchConformance,
    WithoutSqlConformance,
)
"""Every class of tests; a backend passes them all."""

__all__ = [
    "ALL",
    "AtomicConformance",
    "BadInputConformance",
    "BadOptionsConformance",
    "BatchConformance",
    "CapabilitiesConformance",
    "CatchUpConformance",
    "Conformance",
    "Connect",
    "ConsumeConformance",
    "ConsumerAdminConformance",
    "ContractConformance",
    "CoreConformance",
    "CountConformance",
    "DeadLetterConformance",
    "DrainConformance",
    "EnqueueConformance",
    "EnqueueManyConformance",
    "EventConformance",
    "FailureConformance",
    "FilterConformance",
    "ForgetConformance",
    "KeyValueConformance",
    "LaneFailuresConformance",
    "LaneReadsConformance",
    "LanesConformance",
    "LifecycleConformance",
    "LoopConformance",
    "ManagedConsumerConformance",
    "ManagedStreamConformance",
    "OpeningConformance",
    "OrderingConformance",
    "PaceConformance",
    "PullConformance",
    "PushConformance",
    "ReadConformance",
    "RequestReplyConformance",
    "RescheduleConformance",
    "RescheduleTroubleConformance",
    "Restart",
    "RunConformance",
    "ScheduleConformance",
    "SettlementConformance",
    "StateConformance",
    "StreamConformance",
    "SubscribeConformance",
    "SweepConformance",
    "TimeToLiveConformance",
    "WatchConformance",
    "WithoutSqlConformance",
]
