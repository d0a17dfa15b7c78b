"""attri-bundle devices: what the devices of a fleet say of themselves, for an operator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from attri.fleet.cli.options import MQTT, MQTT_PASSWORD, open_broker
from attri.runtime._util.printable import json_text, printable
from attri.runtime.cli.command import Command
from attri.runtime.errors import UsageError

_HEAD = ("device", "runs", "update", "state", "agrees", "seen", "why")


@click.command(cls=Command)
@MQTT
@MQTT_PASSWORD
@click.option("--json", "as_json", is_flag=True, help="One JSON object a device.")
def devices(mqtt: str | None, mqtt_password_file: Path | None, as_json: bool) -> int:
    """List devices: what they run, how far their update is, and why not."""
    from attri.fleet.reports import read_reports

    broker = open_broker(mqtt, mqtt_password_file)
    if broker is None:
        raise UsageError("name the broker of the reports: --mqtt mqtt://[USER@]HOST")
    reports = read_reports(broker)
    for line in map(json_text, reports) if as_json else table(reports, time.time()):
        click.echo(line)
    return 0


def table(reports: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """Reports in aligned columns, those that failed first, and a line of counts at the end.

    Args:
        reports: of the devices.
        now: Unix time.
    """
    rows = [_row(report, now) for report in reports]
    rows.sort(key=lambda row: row[3] not in ("refused", "rolled back"))
    widths = [max(len(row[i]) for row in (_HEAD, *rows)) for i in range(len(_HEAD))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in (_HEAD, *rows)]
    states = [row[3] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state or 'never updated'}" for state in sorted(set(states)))
    return [line.rstrip() for line in lines] + [f"{len(rows)} devices: {counts}" if rows else "no devices"]


def _row(report: Mapping[str, Any], now: float) -> tuple[str, ...]:
    update = report.get("update") or {}
    why = report.get("error") or update.get("reason") or ""
    cells = (report["device"], report.get("runs") or "nothing", update.get("release") or "", update.get("state") or "")
    seen = _ago(now - float(report.get("time") or 0))
    return (*(printable(str(cell)) for cell in cells), _agreement(update), seen, printable(str(why)))


def _agreement(update: Mapping[str, Any]) -> str:
    """Share of the live frames that got the label that they had before; "" where none were compared."""
    share = ((update.get("figures") or {}).get("shadow") or {}).get("agreement")
    return f"{share:.0%}" if isinstance(share, (int, float)) else ""


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
