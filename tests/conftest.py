"""With RLOG_TESTS_STRICT=1 (set in CI) a test that was skipped has failed: what is not run proves nothing."""

import gc
import os
import signal

import pytest
from hypothesis import settings

# How long an example takes is the machine's matter, not the code's.
settings.register_profile("rlog", deadline=None)
settings.load_profile("rlog")

# A shell's background jobs ignore Ctrl-C. So would what is started from here, and some tests end it that way.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Every simulated loop ends with full garbage collections. What is imported by now stays to the end;
    looking through it each time took ten times as long as many of the tests themselves."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("RLOG_TESTS_STRICT") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and RLOG_TESTS_STRICT=1 counts that as a failure"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("RLOG_TESTS_STRICT") == "1" and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and RLOG_TESTS_STRICT=1 counts that as a failure"
