"""attri-run --follow: hand over to attri-bundle, which starts this command again and keeps its bundle up to date."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from attri.runtime.capture.spec import SourceSpec
from attri.runtime.cli.command import UPDATES, option, require
from attri.runtime.cli.model_options import Model
from attri.runtime.cli.sink_options import Outputs
from attri.runtime.deliver.updates.exchange import Exchange
from attri.runtime.errors import UsageError

FOLLOWED = "ATTRI_FOLLOWED"  # environment variable of what attri-bundle starts: the folder of their `Exchange`
_PATH = click.Path(path_type=Path)
OPTIONS = {  # by the fields of `Follow`
    "follow": option(UPDATES, "--follow", metavar="URL|FOLDER", help="Repository whose bundles to run, and follow."),
    "channel": option(UPDATES, "--channel", help="Its channel. [stable]"),
    "store": option(UPDATES, "--store", type=_PATH, help="Folder of this device for updates. [/var/lib/attri]"),
    "root": option(UPDATES, "--root", type=_PATH, help="The repository's 1.root.json: what to trust, the first time."),
    "golden": option(UPDATES, "--golden", type=_PATH, help="Golden images, LABEL/*.jpg, on which it may be no worse."),
    "tolerance": option(UPDATES, "--tolerance", metavar="PERCENT", help="Share of them by which it may be. [0%]"),
    "shadow": option(UPDATES, "--shadow", type=click.IntRange(1), help="Live frames to compare it with what runs on."),
    "min_agreement": option(
        UPDATES, "--min-agreement", metavar="PERCENT", help="Share of these that get the same label. [90%]"
    ),
    "interval": option(UPDATES, "--interval", type=click.FloatRange(1), help="Seconds between updates. [600]"),
    "probation": option(UPDATES, "--probation", type=click.FloatRange(0), help="Seconds until a release stays. [60]"),
    "max_rejected": option(
        UPDATES, "--max-rejected", metavar="PERCENT", help="Share of results without a label, on probation. [any]"
    ),
    "max_shift": option(
        UPDATES, "--max-shift", metavar="PERCENT", help="Distance of its labels to those before, on probation. [any]"
    ),
    "least_results": option(
        UPDATES, "--least-results", type=click.IntRange(1), help="Results that these two bounds need. [200]"
    ),
}


@dataclass(frozen=True)
class Follow:
    """Values of the options, as attri-bundle has them; None where they were not given."""

    follow: str | None
    channel: str | None
    store: Path | None
    root: Path | None
    golden: Path | None
    tolerance: str | None
    shadow: int | None
    min_agreement: str | None
    interval: float | None
    probation: float | None
    max_rejected: str | None
    max_shift: str | None
    least_results: int | None

    def bundle_of(self, model: Model) -> Model:
        """The model with the bundle that is followed.

        Raises:
            UsageError: what is asked for contradicts itself.
        """
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if self.follow is None:
            if given:
                raise UsageError(f"`{next(iter(given))}` is for --follow: give that too")
            return model
        context = click.get_current_context()
        for name in ("bundle", "prompt", "engine_dir"):
            if context.get_parameter_source(name) != ParameterSource.DEFAULT:
                raise UsageError(f"`{name}` comes with what is followed: leave it out, or --follow")
        return dataclasses.replace(model, bundle=(self.store or Path("/var/lib/attri")) / "current")


def follow_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command these options; its function gets their values as one argument, `following`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        following = Follow(**{field.name: kwargs.pop(field.name) for field in fields(Follow)})
        return command(*args, following=following, **kwargs)

    for add in reversed(OPTIONS.values()):
        wrapper = add(wrapper)
    return wrapper


def followed() -> Exchange | None:
    """What this command and the attri-bundle that has started it tell each other; None where none has."""
    folder = os.environ.get(FOLLOWED)
    return Exchange(Path(folder)) if folder else None


def hand_over(
    following: Follow,
    model: Model,
    template: str | None,
    outputs: Outputs,
    words: Sequence[str],
    specs: Sequence[SourceSpec],
) -> NoReturn:
    """Become attri-bundle, which starts this command again and watches over it.

    Args:
        following: the options about updates.
        model: those about the model: a release is checked as it will be used.
        template: likewise.
        outputs: the broker of --mqtt gets reports of updates too.
        words: all arguments of this command.
        specs: the sources. Where all are cameras or streams, a release with other graphs may start it again; and the
            prompt files of their tasks have to fit it.

    Raises:
        MissingExtra: what it needs is not installed.
    """
    require("tuf")
    given = {**dataclasses.asdict(following), "template": template}
    given |= {name: getattr(model, name) for name in ("labels", "threshold", "shortlist", "backend", "device")}
    given |= {"mqtt": outputs.mqtt, "mqtt_password_file": outputs.mqtt_password_file}
    where = given.pop("follow")
    named = {f"--{name.replace('_', '-')}": value for name, value in given.items() if value is not None}
    options = [word for name, value in named.items() for word in (name, str(value))]
    options += ["--independent"] if model.independent else []
    own = dict.fromkeys(task.prompt for spec in specs for tasks in spec.asked for task in tasks if task.prompt)
    options += [word for path in own for word in ("--prompt", str(path))]
    options += [] if all(spec.live for spec in specs) else ["--no-restart"]
    command = [sys.executable, "-m", "attri.runtime.cli.run", *words]
    watch_over = [sys.executable, "-m", "attri.fleet.cli.bundle", "follow", *options, where, "--", *command]
    os.execv(sys.executable, watch_over)
