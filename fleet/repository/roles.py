"""Who signs what in a repository, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Owner = Literal["root", "targets", "online"]  # of keys
OWNERS: tuple[Owner, ...] = get_args(Owner)
ROLES: Mapping[Owner, tuple[str, ...]] = {  # of The Update Framework
    "root": ("root",),
    "targets": ("targets",),
    "online": ("snapshot", "timestamp"),
}
DAYS: Mapping[str, int] = {"root": 730, "targets": 365, "snapshot": 30, "timestamp": 30}  # until a signature expires
