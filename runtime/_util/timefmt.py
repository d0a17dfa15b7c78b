"""Moments in words."""

from __future__ import annotations

from datetime import datetime, timezone


def format_utc(seconds: float) -> str:
    """Unix time -> "2026-11-25T09:31:48.250Z"."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
