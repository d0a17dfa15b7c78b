"""A TensorRT logger that passes messages on to `logging` and keeps errors, for the messages of our exceptions."""

from __future__ import annotations

import logging
from typing import Any

_LOGGER = logging.getLogger("attri.tensorrt")  # TensorRT's own messages, thousands a build
_FIRST_ERRORS = 3  # in a message, beside the last


def make_log(trt: Any) -> Any:
    """Make a logger for a TensorRT module. Its base class is known only once the module is.

    Args:
        trt: the module `tensorrt`, or `tensorrt_rtx`.

    Returns:
        An `ILogger` with two more methods: `start()` before a call of TensorRT, and `reason()`, which sums up the
        errors since then.
    """

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            text = " ".join(message.split())
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and text not in self.errors:
                self.errors.append(text)
            _LOGGER.debug("%s", text)

        def start(self) -> None:
            """Forget earlier errors: they are not the reason why the next call fails."""
            self.errors = []

        def reason(self) -> str:
            """The first errors and the last: 8.6 logs the reason before a line that fits every failure."""
            first, rest = self.errors[:_FIRST_ERRORS], self.errors[_FIRST_ERRORS:]
            return "; ".join([*first, *rest[-1:]]) or "TensorRT logged no error"

    return Log()
