"""Portable engines in a bundle's manifest, so that the machines which the bundle is copied to take them."""

from __future__ import annotations

import dataclasses

from attri.runtime.bundle import ENGINES, Bundle, file_entry, save_manifest
from attri.runtime.engines.base import Progress
from attri.runtime.engines.tensorrt.cache import EngineCache
from attri.runtime.errors import EngineError


def list_portable_engines(bundle: Bundle, progress: Progress) -> None:
    """List the portable engines of a bundle in its manifest.

    Engines of other machines that are listed already stay listed for as long as their files are the same.

    Args:
        bundle: whose manifest is written.
        progress: is given a line if another process builds engines meanwhile.

    Raises:
        EngineError: the folder cannot be locked, or the manifest cannot be written.
    """
    files, cache = bundle.manifest.files, EngineCache(bundle.file(ENGINES))
    with cache.lock(progress):  # without it an engine that is being replaced would be left out
        found = {f"{ENGINES}/{name}": entry for name, entry in cache.portable_files().items()}
    try:
        gone = [name for name in files if name.startswith(f"{ENGINES}/") and not _is_unchanged(bundle, name)]
        kept = {name: entry for name, entry in files.items() if name not in gone}
        save_manifest(dataclasses.replace(bundle.manifest, files=kept | found), bundle.folder)
    except OSError as error:
        raise EngineError(f"cannot list the engines in {bundle.path}'s manifest: {error.strerror}") from error


def _is_unchanged(bundle: Bundle, name: str) -> bool:
    file = bundle.file(name)
    return file.is_file() and file_entry(file) == bundle.manifest.files[name]
