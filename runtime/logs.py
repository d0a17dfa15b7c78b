"""Logs on stderr: lines for a person, or JSON for a machine; credentials hidden in both, tracebacks too."""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from types import TracebackType

from attri.runtime.clock import utc
from attri.runtime.redact import redact

_LOGGER = logging.getLogger("attri")
_NOISY = ("torch", "open_clip", "PIL", "onnxscript", "onnx_ir")


class TextFormatter(logging.Formatter):
    """The message alone."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message"} and, for a bug, "traceback"; one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            found["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(found, ensure_ascii=False)


def start_logging() -> None:
    """Ours from INFO on, everybody else's from WARNING on; whatever nobody caught goes there too."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger().handlers[0].setFormatter(TextFormatter("%(message)s"))
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    # Whoever has put hooks of their own there (a debugger, a test runner) wants to see what is not caught.
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def log_json() -> None:
    """From here on, JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, SystemExit):
        last = traceback.format_exception_only(kind, error)[-1].strip()
        _LOGGER.critical(last, exc_info=(kind, error, trace))
