"""Logging setup: log lines on stderr as text or JSON, with credentials redacted, in tracebacks too."""

from __future__ import annotations

import logging
import sys
import threading

from attri.runtime._util.printable import json_text, printable_lines
from attri.runtime._util.redact import REDACTOR, Redactor
from attri.runtime._util.wording import format_utc

_LOGGER = logging.getLogger("attri")
_NOISY = ("torch", "open_clip", "PIL", "onnxscript", "onnx_ir")


class TextFormatter(logging.Formatter):
    """Formats a record as its message, redacted and printable."""

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        super().__init__("%(message)s")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, without secrets and control characters."""
        return printable_lines(self._redactor.redact(super().format(record)))


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: "time", "level", "logger", "message" and, for a bug, "traceback"."""

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object, without secrets."""
        found = {
            "time": format_utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redactor.redact(record.getMessage()),
        }
        if record.exc_info:
            found["traceback"] = self._redactor.redact(self.formatException(record.exc_info))
        return json_text(found)


def start_logging() -> None:
    """Log to stderr: attri's messages from INFO on, those of libraries from WARNING on, uncaught errors of threads."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger().handlers[0].setFormatter(TextFormatter())
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    if threading.excepthook is threading.__excepthook__:  # a test runner has one of its own
        threading.excepthook = _uncaught


def log_json() -> None:
    """Switch the handlers to JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())


def _uncaught(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        caught = (args.exc_type, args.exc_value, args.exc_traceback)
        _LOGGER.critical("this is a bug in attri:", exc_info=caught)
