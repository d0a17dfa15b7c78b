"""The logger that TensorRT writes to."""

from __future__ import annotations

from attri.runtime.engines.tensorrt.logger import make_log


def test_logger_sums_up_the_errors_since_start(newest):
    log = make_log(newest)
    for text in ("first", "first", *"abcdef", "last"):
        log.log(newest.ILogger.ERROR, text)
        log.log(newest.ILogger.WARNING, "a warning")
    assert log.reason() == "first; a; b; last"
    log.start()
    assert log.reason() == "TensorRT logged no error"
