"""Base class of the commands: exit codes, errors as one line, logs on stderr, grouped --help."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click

from attri.runtime._util.cpus import share_cpus
from attri.runtime._util.extras import MODULES
from attri.runtime._util.logs import start_logging
from attri.runtime._util.redact import has_password, redact, redact_uri
from attri.runtime.errors import AttriError, FailedError, MissingExtra

_LOGGER = logging.getLogger("attri")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

ARGUMENTS = "attri.arguments"  # of the command line, in `click.Context.meta`
# Headings of --help, in this order.
CAPTURE, LABELS, ENGINE = "Capture", "Labels and decisions", "Engine"
OUTPUTS, COLLECT, WEB, SERVICE = "Outputs", "Collecting images", "Web", "Service"
UPDATES = "Updates"
BUNDLE, INT8, PARITY, SCORES = "Bundle", "Int8", "Parity check", "Temperature and threshold"  # of attri-export
DATA, MODEL, TRAINING, TEMPLATES = "Data", "Model", "Training", "Sentences around labels"  # attri-train; attri-batch
PROMPT, PROTOCOL, RUN = "Prompt", "Protocols", "Run"
REPOSITORY, KEYS, STORE, CHECK, REPORTS = "Repository", "Keys", "Device", "Check", "Reports"  # attri-bundle
GROUPS = (
    *(DATA, CAPTURE, LABELS, BUNDLE, INT8, PARITY, SCORES, ENGINE, OUTPUTS, COLLECT, WEB, SERVICE, UPDATES),
    *(MODEL, TRAINING, TEMPLATES, PROMPT, PROTOCOL, RUN),
    *(REPOSITORY, KEYS, STORE, CHECK, REPORTS),
)
_LONGEST_CHOICE = 40  # characters of a|b|c, beyond which a line of --help is too long for a terminal


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # sys.modules says that there is none
        return False


def require(module: str) -> None:
    """Check that a module of an extra is installed.

    Raises:
        MissingExtra: it is not.
    """
    if not is_installed(module):
        raise MissingExtra(module)


class Option(click.Option):
    """A click option that stands under a heading in --help. Whole numbers are called N there, other numbers X.

    Args:
        group: the heading, one of `GROUPS`; without one it is with --help and --version.
    """

    def __init__(self, *args: Any, group: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        if self.metavar is None and isinstance(self.type, click.IntRange) and not self.is_flag:
            self.metavar = "N"
        if self.metavar is None and isinstance(self.type, click.FloatRange):
            self.metavar = "X"
        if isinstance(self.type, click.Choice) and len("|".join(self.type.choices)) > _LONGEST_CHOICE:
            self.metavar = "WORD"
            self.help = f"{self.help} One of {', '.join(self.type.choices)}."


def option(group: str, *flags: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """Like `click.option`, under a heading of `GROUPS` in --help."""
    return click.option(*flags, cls=Option, group=group, **settings)


class Command(click.Command):
    """A click command with attri's exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command and exit."""
        start_logging()
        _hide_passwords(kwargs.get("args") or (args[0] if args else None) or sys.argv[1:])
        share_cpus()
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text
            sys.stdout.reconfigure(errors="backslashreplace")
        code = self._code(*args, **{**kwargs, "standalone_mode": False})
        try:
            sys.stdout.flush()
        except OSError as error:  # stdout is a file, and its disk is full
            _leave_stdout()
            _LOGGER.error("error: stdout: %s", error.strerror)
            code = code or 1
        sys.exit(code)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and keep them as they were typed."""
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; options without one come last."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in (*GROUPS, "")}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                rows[getattr(param, "group", "")].append(record)
        grouped = any(rows[group] for group in GROUPS)
        for group, records in rows.items():
            if records:
                with formatter.section(group or ("Other options" if grouped else "Options")):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command's function; a reader of stdout that has gone (| head) ends it with exit code 0."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # caught here, because click would make it exit code 1 without a word
            if not stdout_is_broken():
                raise FailedError("the other end of a pipe or connection has gone: see that it stays") from error
            _leave_stdout()  # its reader has gone (| head)
            return 0

    def _code(self, *args: Any, **kwargs: Any) -> int:
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            words = io.StringIO()
            error.show(words)
            click.echo(redact(words.getvalue()), err=True, nl=False)  # it quotes what was typed
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            _LOGGER.error("interrupted")
            return 130
        except AttriError as error:
            _LOGGER.error("error: %s", self._with_options(str(error)))
            return error.exit_code
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in MODULES:
                _LOGGER.critical("this is a bug in attri:", exc_info=True)
            else:
                _LOGGER.error("error: %s", MissingExtra(module))
            return 1
        except Exception:  # a bug keeps its traceback
            _LOGGER.critical("this is a bug in attri:", exc_info=True)
            return 1
        return code if isinstance(code, int) else 0

    def _with_options(self, message: str) -> str:
        """The library names parameters as `engine_dir`; a person at the command line knows them as --engine-dir."""
        options = {
            param.name: max(param.opts, key=len) for param in self._parameters() if isinstance(param, click.Option)
        }
        return re.sub("`(\\w+)`", lambda found: options.get(found[1], found[1]), message)

    def _parameters(self) -> list[click.Parameter]:
        """Those that a message may name."""
        return self.params


class Group(Command, click.Group):
    """A command of several: the same for all of them, with their names in --help."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and the commands below them."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def _parameters(self) -> list[click.Parameter]:
        return [param for command in self.commands.values() for param in command.params]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order in which they are used."""
        return list(self.commands)


def _hide_passwords(words: Sequence[str]) -> None:
    """Have the log redact the passwords of all arguments, whichever option a URI was given to by mistake."""
    for word in words:
        value = word.partition("=")[2] if word.startswith("--") else word
        if not value.startswith("gst:") and has_password(value):
            redact_uri(value)


def stdout_is_broken() -> bool:
    """Whether stdout is a pipe whose reader has gone."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors are told of without being asked for
    except (OSError, ValueError):  # it is no file, or closed
        return False
    return bool(poll.poll(0))


def _leave_stdout() -> None:
    """Point stdout to /dev/null, so that what is left in its buffer does not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
