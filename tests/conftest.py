"""What all tests share: CI skips nothing, and no async test leaves a task behind."""

import asyncio
import inspect
import os
from time import monotonic

import pytest
import pytest_asyncio

GRACE = 2.0
"""Seconds a task that was told to end may take to do so."""

LINKS = ("wire", "nats-py")
"""What speaks NATS for us: whoever promises something on a real server promises it on each."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    return _no_skip_in_ci(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    return _no_skip_in_ci(report)


def _no_skip_in_ci(report):
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"CI may not skip: {report.longrepr}"
    return report


@pytest.fixture(params=LINKS)
def link(request):
    """A test that asks for it runs once on each link; it passes it to ``connect``."""
    return request.param


@pytest_asyncio.fixture
async def no_task_left():
    before = asyncio.all_tasks()
    yield
    deadline = monotonic() + GRACE
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if monotonic() > deadline:
            pytest.fail("tasks left behind: " + "; ".join(map(repr, left)), pytrace=False)
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def leak_check(request):
    """Set up before every other fixture of the test, so torn down after them."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_left")
