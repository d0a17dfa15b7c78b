"""Hooks of mkdocs.yml: pages that live outside of docs/ become part of the manual, and links to them lead there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "train/pocket/README.md": "reference/pocket.md",
    **{f"benchmarks/{file.name}": f"benchmarks/{file.name}" for file in sorted((ROOT / "benchmarks").glob("*.md"))},
}
_LINK = re.compile(r"(?<=\]\()([^):#]+)(?=(#[^)]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that live outside of docs/, and the plots of benchmarks (mkdocs hook)."""
    for source, target in PAGES.items():
        if (ROOT / source).exists():
            content = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, target, content=content))
    for plot in sorted((ROOT / "benchmarks").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page (mkdocs hook)."""
    return with_links(markdown, page.file.src_uri)


def with_links(markdown: str, page: str) -> str:
    """The page with links that are right in the repository turned into links of the manual.

    Args:
        markdown: Text of the page.
        page: Where the manual has the page, like "explanation/results.md".
    """
    origin = next((source for source, target in PAGES.items() if target == page), f"docs/{page}")

    def link(match: re.Match[str]) -> str:
        named = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
        if named in PAGES:
            target = PAGES[named]
        elif named.startswith("docs/"):
            target = named.removeprefix("docs/")
        elif named.startswith("benchmarks/") and named.endswith(".png"):
            target = named
        else:
            return match[1]
        return posixpath.relpath(target, posixpath.dirname(page) or ".")

    return _LINK.sub(link, markdown)
