"""Compare wheel and source archive with what git tracks.

    python tools/check_dist.py dist

The source archive must hold every tracked file, the wheel those of the packages, and neither anything else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("calibration", "export", "fleet", "runtime", "train")
MADE = {"PKG-INFO", "setup.cfg"}  # by setuptools


def tracked() -> set[str]:
    """Files that git tracks and that are there, relative to the checkout."""
    words = ["git", "ls-files", "-z"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


def differences(found: set[str], wanted: set[str]) -> Iterator[str]:
    """A line for each file that is missing, or that nobody asked for."""
    yield from (f"lacks {name}" for name in sorted(wanted - found))
    yield from (f"holds {name}, which is not tracked" for name in sorted(found - wanted))


def check_wheel(wheel: Path, files: set[str]) -> list[str]:
    """What is wrong with a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {f"attri/{name}" for name in files if name.split("/")[0] in PACKAGES}
    return [f"{wheel.name} {line}" for line in differences(found, wanted)]


def check_source(archive: Path, files: set[str]) -> list[str]:
    """What is wrong with a source archive."""
    with tarfile.open(archive) as opened:
        names = [member.name.partition("/")[2] for member in opened if member.isfile()]
    found = {name for name in names if ".egg-info/" not in name} - MADE
    return [f"{archive.name} {line}" for line in differences(found, files)]


def main() -> None:
    """Parse the command line and check what lies in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with one wheel and one source archive")
    folder = parser.parse_args().folder
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = tracked()
    wrong = [*check_wheel(wheel, files), *check_source(archive, files)]
    print("\n".join(wrong) or f"{wheel.name} and {archive.name} hold what is tracked")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
