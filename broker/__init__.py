"""gamebroker: fire-and-forget at 30 Hz and never lose a settlement, from one connection object, on real NATS."""

from broker.administration import ConsumerAdmin, StreamAdmin
from broker.broker import Broker
from broker.codecs import BytesCodec, JsonCodec, MsgpackCodec
from broker.connecting import Connecting
from broker.consuming import Consumption
from broker.contracts.admin import ConsumerInfo, OriginState, StreamInfo, StreamState
from broker.contracts.codec import Codec
from broker.contracts.envelopes import Entry, Expect, Receipt
from broker.contracts.errors import (
    AckUnknown,
    AlreadySettled,
    ApiError,
    BatchRejected,
    BrokerClosed,
    BrokerError,
    CodecError,
    ConfigDrift,
    ConnectError,
    ConnectionLost,
    ConsumerGone,
    ConsumerNotFound,
    DecodeError,
    EncodeError,
    EnqueueManyError,
    EnqueueUnknown,
    FeatureDisabled,
    InvalidHeader,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    JetStreamNotEnabled,
    LimitsExceeded,
    NoResponders,
    NoStream,
    PayloadTooLarge,
    PermissionDenied,
    RemoteError,
    RequestError,
    RequestTimeout,
    SequenceConflict,
    StorageFull,
    StreamError,
    StreamFull,
    StreamNotFound,
    Unauthorized,
    Unsupported,
)
from broker.contracts.event_contracts import contract
from broker.contracts.event_errors import MalformedEvent, Problem, QoSViolation
from broker.contracts.events import ConsumerEvent, ConsumerEventKind
from broker.contracts.features import (
    ConsumerLimits,
    External,
    Placement,
    Republish,
    StreamSource,
    SubjectTransform,
)
from broker.contracts.headers import Headers
from broker.contracts.key_errors import BucketNotFound, KeyExists, WriteUnknown
from broker.contracts.key_value import BucketInfo, BucketOptions, Operation
from broker.contracts.options import ConsumeOptions, ConsumerOptions, StreamOptions
from broker.contracts.qos import QoS
from broker.contracts.schedules import Scheduled
from broker.contracts.status import Stats, Status
from broker.contracts.subjects import Subject
from broker.dead_letters import DeadLetters
from broker.key_value.bucket import KeyValue
from broker.key_value.buckets import BucketAdmin
from broker.key_value.claiming import Claims
from broker.key_value.entries import KeyEntry
from broker.key_value.projecting import Projection
from broker.key_value.watching import Watch
from broker.lanes.ordered import OrderedConsumption
from broker.letters import DeadLetter
from broker.messages import Message, StreamMessage
from broker.pulling import Puller
from broker.quality.stats import ContractStats
from broker.reading import Reader
from broker.state.following import StateEvent, StateStats, StateUpdate
from broker.state.publisher import StatePublisher
from broker.state.reader import StateReader, StateView
from broker.stream_broker import StreamBroker
from broker.subscriptions import Subscription
from broker.sweeping import Swept

__version__ = "0.1.0"

__all__ = [
    "AckUnknown",
    "AlreadySettled",
    "ApiError",
    "BatchRejected",
    "Broker",
    "BrokerClosed",
    "BrokerError",
    "BucketAdmin",
    "BucketInfo",
    "BucketNotFound",
    "BucketOptions",
    "BytesCodec",
    "Claims",
    "Codec",
    "CodecError",
    "ConfigDrift",
    "ConnectError",
    "Connecting",
    "ConnectionLost",
    "ConsumeOptions",
    "ConsumerAdmin",
    "ConsumerEvent",
    "ConsumerEventKind",
    "ConsumerGone",
    "ConsumerInfo",
    "ConsumerLimits",
    "ConsumerNotFound",
    "ConsumerOptions",
    "Consumption",
    "ContractStats",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "EncodeError",
    "EnqueueManyError",
    "EnqueueUnknown",
    "Entry",
    "Expect",
    "External",
    "FeatureDisabled",
    "Headers",
    "InvalidHeader",
    "InvalidKey",
    "InvalidOption",
    "InvalidSubject",
    "JetStreamNotEnabled",
    "JsonCodec",
    "KeyEntry",
    "KeyExists",
    "KeyValue",
    "LimitsExceeded",
    "MalformedEvent",
    "Message",
    "MsgpackCodec",
    "NoResponders",
    "NoStream",
    "Operation",
    "OrderedConsumption",
    "OriginState",
    "PayloadTooLarge",
    "PermissionDenied",
    "Placement",
    "Problem",
    "Projection",
    "Puller",
    "QoS",
    "QoSViolation",
    "Reader",
    "Receipt",
    "RemoteError",
    "Republish",
    "RequestError",
    "RequestTimeout",
    "Scheduled",
    "SequenceConflict",
    "StateEvent",
    "StatePublisher",
    "StateReader",
    "StateStats",
    "StateUpdate",
    "StateView",
    "Stats",
    "Status",
    "StorageFull",
    "StreamAdmin",
    "StreamBroker",
    "StreamError",
    "StreamFull",
    "StreamInfo",
    "StreamMessage",
    "StreamNotFound",
    "StreamOptions",
    "StreamSource",
    "StreamState",
    "Subject",
    "SubjectTransform",
    "Subscription",
    "Swept",
    "Unauthorized",
    "Unsupported",
    "Watch",
    "WriteUnknown",
    "contract",
]
