"""Sweet Home 3D's additional furniture, CC BY 3.0 and CC0: the renderings that its catalogues show of the models."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tools.pocket.concepts import Concept, plain
from tools.pocket.render import RgbaImage, shrink


def images_of_catalogues(folder: Path) -> Iterator[tuple[Concept, RgbaImage]]:
    """Every model's rendering, catalogue by catalogue."""
    for path in sorted(folder.rglob("*.sh3f")):
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
            values = dict(re.findall(r"^(\w+#\d+)=(.*?)\s*$", lines, re.MULTILINE))
            for number in range(1, len(values)):
                if f"name#{number}" in values:
                    icon = archive.read(values[f"icon#{number}"].lstrip("/"))
                    yield describe(values, number), shrink(Image.open(io.BytesIO(icon)))


def describe(values: dict[str, str], number: int) -> Concept:
    """The words of one model: its name without number, its category, its tags."""
    name = re.sub(r"\s*\d+$", "", plain(values[f"name#{number}"]))
    tags = [plain(tag) for tag in values.get(f"tags#{number}", "").split(",")]
    return Concept((name,), ("furniture", "household item"), (*tags, plain(values.get(f"category#{number}", ""))))
