"""How the processes of a check answer whoever started them: a JSON object a line on stdout."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attri.fleet.device.together import die_with_parent
from attri.runtime._util.logs import start_logging
from attri.runtime._util.wording import first_line
from attri.runtime.errors import AttriError, UsageError


def say(**values: Any) -> None:
    """Write an answer."""
    print(json.dumps(values), flush=True)


@contextmanager
def answering() -> Iterator[None]:
    """Make an answer of whatever the block raises: {"stage": "refused", "reason": ...}."""
    start_logging()
    try:
        yield
    except UsageError as error:
        say(stage="usage", reason=str(error))
    except AttriError as error:
        say(stage="refused", reason=str(error))
    except Exception as error:  # of an engine or a library: this release is not to run here
        logging.getLogger("attri").warning("the check failed:", exc_info=True)
        say(stage="refused", reason=f"its check failed: {first_line(error)}")


def be_modest() -> None:
    """Let others have the processor, die first where memory runs out, and with whoever started this."""
    os.nice(10)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    die_with_parent()
