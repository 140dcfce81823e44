"""gamebroker: fire-and-forget at 30 Hz and never lose a settlement, from one connection object, on real NATS."""

import logging

from broker.administration import ConsumerAdmin, StreamAdmin
from broker.broker import Broker
from broker.codecs import BytesCodec, JsonCodec, MsgpackCodec
from broker.connecting import Connecting
from broker.consuming import Consumption
from broker.contracts.admin import ConsumerInfo, StreamInfo, StreamState
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
    InvalidHeader,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    NoResponders,
    NoStream,
    PayloadTooLarge,
    PermissionDenied,
    QoSViolation,
    RemoteError,
    RequestError,
    RequestTimeout,
    SequenceConflict,
    StreamError,
    StreamFull,
    StreamNotFound,
    Unauthorized,
    Unsupported,
)
from broker.contracts.headers import Headers
from broker.contracts.options import ConsumeOptions, ConsumerOptions, StreamOptions
from broker.contracts.qos import QoS
from broker.contracts.status import Stats, Status
from broker.contracts.subjects import Subject
from broker.dead_letters import DeadLetters
from broker.lanes.ordered import OrderedConsumption
from broker.letters import DeadLetter
from broker.messages import Message, StreamMessage
from broker.pulling import Puller
from broker.reading import Reader
from broker.state.following import StateEvent, StateStats, StateUpdate
from broker.state.publisher import StatePublisher
from broker.state.reader import StateReader, StateView
from broker.stream_broker import StreamBroker
from broker.subscriptions import Subscription

__version__ = "0.1.0"

logging.getLogger("broker").addHandler(logging.NullHandler())

__all__ = [
    "AckUnknown",
    "AlreadySettled",
    "ApiError",
    "BatchRejected",
    "Broker",
    "BrokerClosed",
    "BrokerError",
    "BytesCodec",
    "Codec",
    "CodecError",
    "ConfigDrift",
    "ConnectError",
    "Connecting",
    "ConnectionLost",
    "ConsumeOptions",
    "ConsumerAdmin",
    "ConsumerGone",
    "ConsumerInfo",
    "ConsumerNotFound",
    "ConsumerOptions",
    "Consumption",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "EncodeError",
    "EnqueueManyError",
    "EnqueueUnknown",
    "Entry",
    "Expect",
    "Headers",
    "InvalidHeader",
    "InvalidKey",
    "InvalidOption",
    "InvalidSubject",
    "JsonCodec",
    "Message",
    "MsgpackCodec",
    "NoResponders",
    "NoStream",
    "OrderedConsumption",
    "PayloadTooLarge",
    "PermissionDenied",
    "Puller",
    "QoS",
    "QoSViolation",
    "Reader",
    "Receipt",
    "RemoteError",
    "RequestError",
    "RequestTimeout",
    "SequenceConflict",
    "StateEvent",
    "StatePublisher",
    "StateReader",
    "StateStats",
    "StateUpdate",
    "StateView",
    "Stats",
    "Status",
    "StreamAdmin",
    "StreamBroker",
    "StreamError",
    "StreamFull",
    "StreamInfo",
    "StreamMessage",
    "StreamNotFound",
    "StreamOptions",
    "StreamState",
    "Subject",
    "Subscription",
    "Unauthorized",
    "Unsupported",
]
