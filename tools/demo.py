"""The demo around the three commands: lay out images, labels and a short video; then show what was said of them.

python tools/demo.py prepare DIR      DIR/photos, DIR/labels.txt, DIR/clip.mp4
python tools/demo.py show DIR         a table on stdout and DIR/contact-sheet.png
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attri.runtime.labels import class_words
from attri.train.pocket import IMAGES, OTHER_STYLE

# Eight of the 24 classes that the prompt is trained on: labels are chosen when the classifier runs.
LABELS = ("arrow", "building", "fruit", "ground_vehicle", "hand", "heart", "mammal", "smiling_face")
EACH = 3  # images of a class in each art style
CELL, TEXT = 146, 46
FPS, SECONDS = 12, 2


def prepare(folder: Path) -> None:
    """The first test images of each class in each art style, none of which the prompt is trained on."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for name in LABELS:
        for style, source in (("a", IMAGES / "test"), ("b", OTHER_STYLE)):
            for number, image in enumerate(sorted((source / name).glob("*.png"))[:EACH], start=1):
                shutil.copy(image, photos / f"{name}-{style}{number}.png")
    (folder / "labels.txt").write_text("".join(f"{class_words(name)}\n" for name in LABELS), encoding="utf-8")
    film(sorted(photos.glob("*-a1.png"))[::2], folder / "clip.mp4")


def film(images: list[Path], path: Path) -> None:
    """A camera that drifts over one image after the other, 256 x 256, H.264."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for image in images:
            wall = Image.new("RGB", (320, 320), "white")
            wall.paste(Image.open(image).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC), (32, 32))
            for step in range(FPS * SECONDS):
                x = round(64 * step / (FPS * SECONDS))
                frame = np.asarray(wall.crop((x, 32, x + 256, 288)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def show(folder: Path) -> None:
    """Print the table, and save the contact sheet."""
    photos, frames = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("photos", "clip")
    )
    right = [truth(photo) == photo["label"] for photo in photos]
    print(f"{'':<8}{'frames':>8}{'right':>8}{'cached':>8}{'vision ms':>11}{'text ms, miss':>15}{'text ms, hit':>14}")
    for name, records in (("photos", photos), ("clip", frames)):
        hits = [r for r in records if r["cache"] == "hit"]
        misses = [r for r in records if r["cache"] == "miss"]
        share = f"{np.mean(right):.0%}" if name == "photos" else ""
        print(
            f"{name:<8}{len(records):>8}{share:>8}{len(hits) / len(records):>8.0%}{median(records, 'vision'):>11}"
            f"{median(misses, 'text'):>15}{median(hits, 'text'):>14}"
        )
    said = ", ".join(f"{label} {count}" for label, count in Counter(r["label"] for r in frames).most_common(5))
    print(f"in the clip: {said}")
    sheet(folder, photos).save(folder / "contact-sheet.png")
    print(f"images with what was said of them: {folder / 'contact-sheet.png'}")


def truth(photo: dict[str, Any]) -> str:
    """The label of an image that `prepare` laid out, from its file name."""
    return class_words(Path(photo["source"]).stem.rpartition("-")[0])


def median(records: list[dict[str, Any]], part: str) -> str:
    """Median milliseconds of a part, or a dash."""
    return f"{np.median([r['latency_ms'][part] for r in records]):.2f}" if records else "-"


def sheet(folder: Path, photos: list[dict[str, Any]], columns: int = 8) -> Image.Image:
    """Every image with its label and score; a green rule where it is right, red where it is wrong."""
    rows = -(-len(photos) // columns)
    page = Image.new("RGB", (columns * CELL + 12, rows * (CELL + TEXT) + 12), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, photo in enumerate(photos):
        x, y = 12 + number % columns * CELL, 12 + number // columns * (CELL + TEXT)
        image = Image.open(folder / photo["source"]).convert("RGB")
        page.paste(image.resize((CELL - 12, CELL - 12), Image.Resampling.BICUBIC), (x, y))
        good = truth(photo) == photo["label"]
        width = round((CELL - 12) * photo["score"])
        draw.rectangle((x, y + CELL - 9, x + CELL - 13, y + CELL - 6), fill="#e6e6e6")
        draw.rectangle((x, y + CELL - 9, x + max(width, 2), y + CELL - 6), fill="#2e8b57" if good else "#c0392b")
        draw.text((x, y + CELL - 2), f"{photo['label']} {photo['score']:.0%}", "black", font)
        if not good:
            draw.text((x, y + CELL + 14), f"is: {truth(photo)}", "#808080", font)
    return page


if __name__ == "__main__":
    {"prepare": prepare, "show": show}[sys.argv[1]](Path(sys.argv[2]))
