"""Second tries in CI: allowed, shown, and few.

Nine thousand tests on real servers share a machine with strangers, and one of them may meet a moment in which a disk
stands still. ``make test`` with ``CI`` set tries a failed test once more (``--reruns 1``). Here each of those is
printed with how it failed, for somebody to look at, and more than ``MOST`` fail the run: that is no longer the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

MOST = 5
"""Tests of a run that may need a second try."""


class SecondTries:
    """Counts them where the reports of all workers come together."""

    def __init__(self) -> None:
        self._failed_first: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report):
        if report.outcome == "rerun":
            self._failed_first.append(report)

    def pytest_sessionfinish(self, session):
        if len(self._failed_first) > MOST and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter):
        for report in self._failed_first:
            terminalreporter.section(f"FAILED AT FIRST: {report.nodeid}", "_")
            terminalreporter.line(report.longreprtext)
        if len(self._failed_first) > MOST:
            told = f"{len(self._failed_first)} tests needed a second try; more than {MOST} is a failure"
            terminalreporter.line(told, red=True)
