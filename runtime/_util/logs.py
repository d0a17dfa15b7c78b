"""Logs on stderr: lines for a person, or JSON for a machine; credentials hidden in both, tracebacks too."""

from __future__ import annotations

import logging
import sys
import threading

from attri.runtime._util.printable import json_text, printable_lines
from attri.runtime._util.redact import redact
from attri.runtime._util.wording import format_utc

_LOGGER = logging.getLogger("attri")
_NOISY = ("torch", "open_clip", "PIL", "onnxscript", "onnx_ir")


class TextFormatter(logging.Formatter):
    """The message alone."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(redact(super().format(record)))


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message"} and, for a bug, "traceback"; one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": format_utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            found["traceback"] = redact(self.formatException(record.exc_info))
        return json_text(found)


def start_logging() -> None:
    """Ours from INFO on, everybody else's from WARNING on; what threads do not catch goes there too."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger().handlers[0].setFormatter(TextFormatter("%(message)s"))
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    if threading.excepthook is threading.__excepthook__:  # a test runner has one of its own
        threading.excepthook = _uncaught


def log_json() -> None:
    """From here on, JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())


def _uncaught(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        caught = (args.exc_type, args.exc_value, args.exc_traceback)
        _LOGGER.critical("this is a bug in attri:", exc_info=caught)
