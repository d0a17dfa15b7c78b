"""Icon sets packed for iconify: the names of the icons are their captions."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tools.pocket.concepts import Concept, plain
from tools.pocket.render import RgbaImage, icon_document, render

# Style, folder of PACKAGES, which names belong to it, and what to take off them.
SETS = {
    "game-icons": ("iconify-game-icons", "", ""),
    "healthicons": ("iconify-healthicons", "^(?!.*(-outline|-negative|-24px|-alt))", ""),
    "healthicons-line": ("iconify-healthicons", "^(?!.*(-24px|-alt)).*-outline$", "-outline$"),
    "flat-color-icons": ("iconify-flat-color-icons", "", ""),
    "ultimate-color": ("iconify-streamline-ultimate-color", "", ""),
    "freehand-color": ("iconify-streamline-freehand-color", "", ""),
    "plump-color": ("iconify-streamline-plump-color", "", ""),
    "stickies-color": ("iconify-streamline-stickies-color", "", ""),
    "kameleon-color": ("iconify-streamline-kameleon-color", "", ""),
    "phosphor-fill": ("iconify-ph", "-fill$", "-fill$"),
    "phosphor-duotone": ("iconify-ph", "-duotone$", "-duotone$"),
    "phosphor": ("iconify-ph", "^(?!.*-(bold|duotone|fill|light|thin)$)", ""),
    "icon-park": ("iconify-icon-park", "", "-(one|two|three|four)$"),
}
DIRECTED = re.compile(r"\b(left|right|clockwise|forward|backward|back|next|previous|text|letter|number)\b")


def images_of_set(style: str, packages: Path) -> Iterator[tuple[Concept, RgbaImage]]:
    """Every icon of one set with its concept."""
    folder, wanted, ending = SETS[style]
    icons = json.loads((packages / folder / "icons.json").read_text())
    for name in icons["icons"]:
        said = plain(re.sub(r"(-\d+)+$", "", re.sub(ending, "", name)) if ending else re.sub(r"(-\d+)+$", "", name))
        if re.search(wanted, name) and re.search("[a-z]{3}", said):
            concept = Concept((said,), (), (), flippable=DIRECTED.search(said) is None)
            yield concept, render(icon_document(icons, name))
