"""Life under systemd: READY, WATCHDOG and STOPPING by its datagram socket, and the unit file to begin with."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from attri.runtime._util.redact import has_password
from attri.runtime._util.wording import plural
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import UsageError

SECRETS = "/etc/attri/secrets.env"
_STATUS_PERIOD = 10.0  # seconds between lines for `systemctl status`, where no watchdog asks for more


def notify(*lines: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3)); one that does not listen is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(lines).encode(), address)


class WatchdogSink:
    """Says that the command is ready, then that it is alive, and at the end that it stops.

    Alive means that frames that come are classified: where frames wait, and none was classified for the time that the
    service manager grants (WATCHDOG_USEC), it is told nothing, and restarts the command. A source that is lost is no
    reason, nor is a sink that holds back files: that is their own business.
    """

    name = "watchdog"
    lossless = False
    takes: SinkFilter = "changes"

    def __init__(self, control: PipelineControl) -> None:
        self._control = control
        self._limit = _watchdog_seconds()
        self._done, self._moved = 0, time.monotonic()
        self._stop = threading.Event()
        notify("READY=1", self._status())
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        """Nothing: the health of the sources says it all."""

    def close(self) -> None:
        self._stop.set()
        notify("STOPPING=1")
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(self._limit / 2 if self._limit else _STATUS_PERIOD):
            beat = ["WATCHDOG=1"] if self._limit and self._moves() else []
            notify(*beat, self._status())

    def _moves(self) -> bool:
        """Whether frames are classified, or none are there to classify."""
        sources = self._control.health()
        done = sum(each.frames for each in sources)
        if done != self._done or not any(each.waiting for each in sources):
            self._done, self._moved = done, time.monotonic()
        return time.monotonic() - self._moved < (self._limit or 0)

    def _status(self) -> str:
        sources = self._control.health()
        live = [each for each in sources if each.state == "live"]
        rate = sum(each.fps for each in live)
        return f"STATUS={len(live)} of {plural(len(sources), 'source')} live, {rate:.1f} frames/s"


def unit_file(arguments: Sequence[str]) -> str:
    """A unit that runs attri-run with these arguments, from this folder, as this user.

    Raises:
        UsageError: there is a secret in the arguments; unit files can be read by everybody.
    """
    _check_secrets(arguments)
    words = [argument for argument in arguments if argument != "--install-service"]
    if not {"--json", "--quiet"} & set(words):
        words.insert(words.index("--") if "--" in words else len(words), "--quiet")  # no line per frame in the journal
    program = shutil.which(sys.argv[0]) or shutil.which("attri-run")
    command = [str(Path(program).absolute())] if program else [sys.executable, "-m", "attri.runtime.cli.run"]
    groups = [name for name in ("video", "render") if _is_group(name)]
    lines = [
        "[Unit]",
        "Description=attri-run: classify what cameras see",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={' '.join(map(_quoted, command + words))}",
        f"WorkingDirectory={_escaped(str(Path.cwd()))}",
        f"User={os.environ.get('SUDO_USER') or getpass.getuser()}",
        *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        f"EnvironmentFile=-{SECRETS}",
        "StateDirectory=attri",
        "Restart=on-failure",
        "RestartSec=5",
        "RestartPreventExitStatus=2",
        "WatchdogSec=60",
        "TimeoutStartSec=1800",
        "TimeoutStopSec=10",
        "NoNewPrivileges=yes",
        *([] if any(map(_in_tmp, [str(Path.cwd()), *words])) else ["PrivateTmp=yes"]),
        "ProtectSystem=full",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _check_secrets(arguments: Sequence[str]) -> None:
    """Raises UsageError: unit files can be read by everybody."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option = argument.partition("=")[0] if argument.startswith("--") else before
        if argument.partition("=")[0] == "--webhook":
            raise UsageError(
                f"--install-service: paths of webhooks are secrets: write ATTRI_WEBHOOK=URL into {SECRETS}"
            )
        if not has_password(argument):
            continue
        if option == "--mqtt":
            raise UsageError(
                f"--mqtt: no password in the URL: write ATTRI_MQTT_PASSWORD into {SECRETS}, or use --mqtt-password-file"
            )
        raise UsageError("--install-service: there is a password in a source: name it in a --sources file instead")


def _watchdog_seconds() -> float | None:
    """How long the service manager waits for a sign of life; None where it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    return None


def _in_tmp(word: str) -> bool:
    """Whether it is a path that a service with a /tmp of its own would not find."""
    return word.partition("=")[2 if word.startswith("--") else 0].startswith(("/tmp/", "/var/tmp/"))


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """As systemd.service(5) reads a word of a command line."""
    text = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("\n", "\\n")
    return text if text and not set(text) & set(" \t'\";") else f'"{text}"'
