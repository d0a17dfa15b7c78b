"""Regions that somebody draws: what they may be, and how the sources file is edited so that it names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.capture.orientation import crop
from attri.runtime.capture.sources_file import parse_tables, read_source
from attri.runtime.capture.spec import RegionOfInterest, RegionSpec, SourceSpec
from attri.runtime.errors import FailedError, SourceError, UsageError
from attri.runtime.task import check_task_name

MOST = 64  # regions of a source: each is a frame of a batch


def with_regions(
    spec: SourceSpec, rois: Mapping[str, Any], image: Image.Image | NDArray[np.uint8] | None
) -> SourceSpec:
    """A source with these regions; one by the name of a region that it has keeps what is asked there.

    Args:
        spec: The source.
        rois: x, y, width and height by names; none is the whole frame.
        image: One of its frames, in which they have to lie; None is not known.

    Raises:
        UsageError: A name or a region cannot be, or the source takes none.
    """
    if "roi" not in spec.options:
        raise UsageError(f"{spec.name} takes no regions")
    if len(rois) > MOST:
        raise UsageError(f"{len(rois)} regions are too many: {MOST} at most")
    known = {region.name: region for region in spec.regions}
    regions = []
    for name in [*(name for name in known if name in rois), *(name for name in rois if name not in known)]:
        numbers = rois[name]
        check_task_name(name, "region")
        if not RegionOfInterest().accepts(numbers):
            raise UsageError(f"the region {name} is x, y, width and height, whole pixels: [100, 80, 300, 400]")
        x, y, width, height = numbers
        region = replace(known.get(name, RegionSpec(name, (0, 0, 1, 1))), roi=(x, y, width, height))
        if image is not None:
            _check_inside(image, region)
        regions.append(region)
    return replace(spec, regions=tuple(regions), input=replace(spec.input, roi=None))


def _check_inside(image: Image.Image | NDArray[np.uint8], region: RegionSpec) -> None:
    try:
        crop(image, region.roi)
    except SourceError as error:
        raise UsageError(f"{region.name}: {error}") from error


def edited_regions(path: Path, spec: SourceSpec) -> bytes:
    """A sources file in which a source has the regions that it has now; all else stays, comments too.

    Args:
        path: The file, which has the source.
        spec: The source.

    Raises:
        UsageError: The file is not TOML, has no such source any more, or would not be read as the source is.
        FailedError: It cannot be read.
    """
    import tomlkit
    from tomlkit.items import InlineTable

    try:
        data = path.read_bytes()
    except OSError as error:
        raise FailedError(f"{path} cannot be read: {error.strerror or error}") from error
    before, document = parse_tables(path, data), tomlkit.parse(data.decode("utf-8-sig"))
    if not isinstance(before.get(spec.name), dict):
        raise UsageError(f"{path} has no source {spec.name} any more")
    known = {region.name: region for region in spec.regions}
    table: Any = document[spec.name]
    table.pop("roi", None)
    if known and "regions" not in table:
        table["regions"] = {} if isinstance(table, InlineTable) else tomlkit.table(is_super_table=True)
    regions = table.get("regions", {})
    below = [item for name in [*regions] if name not in known for item in _comments_below(regions.pop(name))]
    for name, region in known.items():
        if name in regions:
            regions[name]["roi"] = list(region.roi)
        else:
            regions[name] = {"roi": list(region.roi)}
    if not known:
        table.pop("regions", None)
    for item in below:
        (regions[[*regions][-1]] if known else table).add(item)
    edited = tomlkit.dumps(document).encode()
    _check_edited(path, spec, before, parse_tables(path, edited))
    return edited


def _check_edited(path: Path, spec: SourceSpec, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check that a file says of the source what is used, and of the others what it said. Raises UsageError."""
    others = [{name: table for name, table in tables.items() if name != spec.name} for tables in (before, after)]
    if others[0] != others[1]:  # tomlkit puts a table after keys with dots in the wrong place
        raise UsageError(f"{path}: write the regions of {spec.name} as [{spec.name}.regions.NAME], to have them edited")
    read = read_source(path, spec.name, after[spec.name])
    if {region.name: region for region in read.regions} != {region.name: region for region in spec.regions}:
        raise UsageError(f"{path} says something else of {spec.name} than attri-run uses: look at what it holds first")


def _comments_below(table: Any) -> list[Any]:
    """Comments and blank lines after the last key of a table of tomlkit: they belong to what follows it."""
    from tomlkit.items import Table

    if not isinstance(table, Table):  # it is inline, or no table
        return []
    body = table.value.body
    last = max((place for place, (key, _) in enumerate(body) if key is not None), default=-1)
    return [item for _, item in body[last + 1 :]]
