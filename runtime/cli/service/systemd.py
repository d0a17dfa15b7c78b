"""systemd integration: systemd notify messages (sd_notify: READY, WATCHDOG, STOPPING) and a generated unit file."""

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
STATUS_PERIOD = 10.0  # seconds between lines for `systemctl status`, where no watchdog asks for more


def notify(*lines: str) -> None:
    """Send lines to the service manager by the protocol of sd_notify(3), if there is one; errors are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(lines).encode(), address)


class WatchdogSink:
    """Sends READY at the start, WATCHDOG while frames are classified, and STOPPING at the end.

    WATCHDOG is left out where frames wait and none was classified for as long as the service manager allows
    (WATCHDOG_USEC); then it restarts the command. Neither a lost source nor a sink that holds back files is a reason.
    """

    name = "watchdog"
    lossless = False
    takes: SinkFilter = "changes"

    def __init__(self, control: PipelineControl) -> None:
        self._control = control
        self._limit = _watchdog_seconds()
        self._done, self._progressed = 0, time.monotonic()
        self._stop = threading.Event()
        notify("READY=1", self._status())
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        """Ignore the result: progress is read from the health of the sources."""

    def close(self) -> None:
        """Send STOPPING."""
        self._stop.set()
        notify("STOPPING=1")
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(self._limit / 2 if self._limit else STATUS_PERIOD):
            alive = ["WATCHDOG=1"] if self._limit and self._makes_progress() else []
            notify(*alive, self._status())

    def _makes_progress(self) -> bool:
        """Whether frames are classified, or none wait."""
        sources = self._control.health()
        done = sum(each.frames for each in sources)
        if done != self._done or not any(each.waiting for each in sources):
            self._done, self._progressed = done, time.monotonic()
        return time.monotonic() - self._progressed < (self._limit or 0)

    def _status(self) -> str:
        sources = self._control.health()
        live = [each for each in sources if each.state == "live"]
        rate = sum(each.fps for each in live)
        return f"STATUS={len(live)} of {plural(len(sources), 'source')} live, {rate:.1f} frames/s"


def unit_file(arguments: Sequence[str]) -> str:
    """Make a unit file that runs attri-run with these arguments, from this folder, as this user.

    Raises:
        UsageError: the arguments hold a secret, which a unit file would show to everybody.
    """
    _check_secrets(arguments)
    words = [argument for argument in arguments if argument != "--install-service"]
    if not {"--json", "--quiet"} & set(words):
        words.insert(words.index("--") if "--" in words else len(words), "--quiet")  # no line per frame in the journal
    # What follows updates starts attri-run again at times, which systemd would take for the end of the service.
    follows = any(word.partition("=")[0] == "--follow" for word in words)
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
        f"Type={'exec' if follows else 'notify'}",
        f"ExecStart={' '.join(map(_quoted, command + words))}",
        f"WorkingDirectory={_escaped(str(Path.cwd()))}",
        f"User={os.environ.get('SUDO_USER') or getpass.getuser()}",
        *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        f"EnvironmentFile=-{SECRETS}",
        "StateDirectory=attri",
        "Restart=on-failure",
        "RestartSec=5",
        "RestartPreventExitStatus=2",
        *([] if follows else ["WatchdogSec=60"]),
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
    """Refuse arguments that hold a secret.

    Raises:
        UsageError: one does; unit files can be read by everybody.
    """
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
    """Seconds that the service manager waits for WATCHDOG; None where it has no watchdog."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    return None


def _in_tmp(word: str) -> bool:
    """Whether a word is a path below /tmp, which a service with PrivateTmp does not see."""
    return word.partition("=")[2 if word.startswith("--") else 0].startswith(("/tmp/", "/var/tmp/"))


def _is_group(name: str) -> bool:
    """Whether this system has a user group of this name."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _escaped(text: str) -> str:
    """Escape the percent signs of systemd's specifiers."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Quote a word of a command line for systemd.service(5)."""
    text = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("\n", "\\n")
    return text if text and not set(text) & set(" \t'\";") else f'"{text}"'
