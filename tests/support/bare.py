"""A pytest plugin for a base install: a test that needs an extra is skipped, by the name of what is not there."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from attri.runtime._util.extras import MODULES
from attri.runtime.errors import MissingExtra

EXTRAS = {*MODULES, "websockets", "h11", "securesystemslib"}  # for tests; with uvicorn; with tuf


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, MissingExtra) or (
        isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in EXTRAS
    ):
        report.outcome, report.longrepr = "skipped", (*item.location[:2], str(error))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    missing = [extra for extra in EXTRAS if f"No module named '{extra}" in str(report.longrepr)]
    if report.failed and missing:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"{missing[0]} is not installed")
    return report
