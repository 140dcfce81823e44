"""What all tests share: CI skips nothing, and no async test leaves a task behind, or a database's thread."""

import asyncio
import inspect
import logging
import os
import threading
from time import monotonic
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.deployment import Secrets
from tests.second_tries import SecondTries

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

GRACE = 2.0
"""Seconds a task that was told to end may take to do so."""

DATABASE_THREADS = ("(_connection_worker_thread)", "gamebroker-sqlite")
"""How the names of SQLite connections' threads end: aiosqlite's, and ours."""

LINKS = ("wire", "nats-py")
"""What speaks NATS for us: whoever promises something on a real server promises it on each."""


def pytest_configure(config):
    config.pluginmanager.register(SecondTries(), "second tries")


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


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """Certificates and passwords of the shipped server configuration."""
    return Secrets.make(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL, one for all tests of a process."""
    from loadtest.postgres import PostgresServer  # noqa: PLC0415 - most tests need no driver

    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def schema(postgres):
    """An empty corner of PostgreSQL: a schema is made in a moment, a database is 300 files."""
    name = f"t{uuid4().hex}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{postgres.url()}&options=-csearch_path%3D{name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest_asyncio.fixture
async def nothing_left():
    before = _at_work()
    yield
    deadline = monotonic() + GRACE
    while left := _at_work() - before - {asyncio.current_task()}:
        if monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(map(repr, left)), pytrace=False)
        await asyncio.sleep(0.005)


def _at_work():
    """Tasks, and the threads of SQLite connections, which report to the test's event loop."""
    threads = {each for each in threading.enumerate() if each.name.endswith(DATABASE_THREADS)}
    return asyncio.all_tasks() | threads


@pytest.fixture(autouse=True)
def log_as_it_was():
    """A program that a test runs in its own process may make the library's log quieter."""
    log = logging.getLogger("broker")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def leak_check(request):
    """Set up before every other fixture of the test, so torn down after them."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("nothing_left")
