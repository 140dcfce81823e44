"""Every backend passes the shipped suite: one line per class here, one line per backend in conftest.py."""

from broker.testing import conformance as suite


class TestCore(suite.CoreConformance): ...


class TestSubscribe(suite.SubscribeConformance): ...


class TestRequestReply(suite.RequestReplyConformance): ...


class TestState(suite.StateConformance): ...


class TestCatchUp(suite.CatchUpConformance): ...


class TestStreams(suite.StreamConformance): ...


class TestEnqueue(suite.EnqueueConformance): ...


class TestEnqueueMany(suite.EnqueueManyConformance): ...


class TestRead(suite.ReadConformance): ...


class TestConsume(suite.ConsumeConformance): ...


class TestOpening(suite.OpeningConformance): ...


class TestSettlement(suite.SettlementConformance): ...


class TestDeadLetters(suite.DeadLetterConformance): ...


class TestDrain(suite.DrainConformance): ...


class TestPull(suite.PullConformance): ...


class TestConsumerAdmin(suite.ConsumerAdminConformance): ...


class TestOrdering(suite.OrderingConformance): ...


class TestLanes(suite.LanesConformance): ...


class TestLaneFailures(suite.LaneFailuresConformance): ...


class TestLifecycle(suite.LifecycleConformance): ...


class TestBadInput(suite.BadInputConformance): ...


class TestCapabilities(suite.CapabilitiesConformance): ...


def test_no_class_of_the_suite_is_forgotten():
    shipped = {getattr(suite, name) for name in suite.__all__ if name.endswith("Conformance")} - {suite.Conformance}
    assert shipped == {base for case in globals().values() if isinstance(case, type) for base in case.__bases__}
