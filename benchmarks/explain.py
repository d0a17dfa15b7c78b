"""Do explanations point to what they are about? Two photographs side by side on one canvas, and one of them named.

    attri-train --data PHOTOS --shots 4 --epochs 6 --output run
    attri-export run --explain --output bundle
    python -m benchmarks.explain bundle PHOTOS/test

PHOTOS/test holds a folder of images for each class. The page is kept in benchmarks/explain.md.

Pointing: 200 canvases of two classes each, drawn at random (seed 0), each photograph cut to its half. A map points to
the half in which it is greater, summed. Beside explanations stand the raw similarity of patches and text (the tower's
patches after its last block, each pooled alone) and chance.

Deletion: of 200 photographs, those patches that speak most for the label that was found are painted in the mean
colour, and as many at random, and those that speak least for it. What is left of the label's cosine says whose patches
mattered.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from attri.runtime import Classifier, Prediction
from attri.runtime.images import load_image
from attri.runtime.labels import class_words
from attri.train.model.backbone import load_backbone
from attri.train.model.blocks import l2_normalize
from attri.train.model.towers import ImageTower, image_tower
from attri.train.model.towers.contributions import contributions
from attri.train.report.intervals import wilson
from benchmarks.common import keep

SIDE = 224  # pixels of a canvas
COUNT = 200
DELETED = (0.1, 0.2, 0.4)


def canvases(photos: Path, count: int) -> list[tuple[Image.Image, tuple[str, str], int]]:
    """Images of two classes side by side, the names of both, and which is asked for."""
    draw = random.Random(0)
    folders = sorted(folder for folder in photos.iterdir() if folder.is_dir())
    made: list[tuple[Image.Image, tuple[str, str], int]] = []
    for _ in range(count):
        pair = draw.sample(folders, 2)
        canvas = Image.new("RGB", (SIDE, SIDE))
        for number, folder in enumerate(pair):
            photo = load_image(draw.choice(sorted(folder.iterdir()))).convert("RGB")
            canvas.paste(ImageOps.fit(photo, (SIDE // 2, SIDE), Image.Resampling.BICUBIC), (number * SIDE // 2, 0))
        made.append((canvas, (class_words(pair[0].name), class_words(pair[1].name)), draw.randrange(2)))
    return made


class Pointing:
    """How often maps point to the named half of their canvas, by the kind of map.

    Args:
        classifier: Has all classes as its labels.
        tower: Of the same backbone.
        blocks: How many of the last blocks are tried.
    """

    def __init__(self, classifier: Classifier, tower: ImageTower, blocks: int) -> None:
        self.classifier, self.tower, self.blocks = classifier, tower, blocks
        self.hits: dict[str, list[bool]] = {}

    def look_at(self, canvas: Image.Image, pair: tuple[str, str], named: int) -> None:
        """Point, by every kind of map."""
        label, other = pair[named], pair[1 - named]
        prediction = self.classifier(canvas)
        explanation = self.classifier.explain(canvas, [label, other], prediction)
        maps = {"explanation": explanation.patches}
        texts = self.classifier.encode_text(prediction.retrieved[None])[0]
        text = texts[[self.classifier.labels.index(each) for each in (label, other)]]  # [2, D]
        pixels = torch.from_numpy(self.classifier.bundle.preprocess()(canvas))[None]
        with torch.no_grad():
            *_, last = self.tower.states(pixels)
            alone = l2_normalize(self.tower.joint(self.tower.normalize(last[:, self.tower.prefix :])))
            maps["raw similarity of patches"] = self._maps(alone[0].numpy(), text)
            for blocks in range(1, self.blocks + 1):
                found, _ = contributions(self.tower, pixels, blocks)
                maps[f"last {blocks}"] = self._maps(found[0].numpy(), text)
        for kind, (ours, theirs) in maps.items():
            self._point(f"{kind}|of the label", ours, named)
            self._point(f"{kind}|in contrast to the other", ours - theirs, named)

    def _maps(self, patches: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
        return (patches @ text.T).T.reshape(-1, *self.tower.grid)

    def _point(self, kind: str, found: NDArray[np.float32], named: int) -> None:
        left, right = np.split(found, 2, axis=1)
        self.hits.setdefault(kind, []).append((left.sum(), right.sum())[named] > (left.sum(), right.sum())[1 - named])

    def row(self, kind: str) -> str:
        """A row of a table: the share of hits with its 95% interval, of both kinds of maps."""
        cells = []
        for way in ("of the label", "in contrast to the other"):
            hits = self.hits[f"{kind}|{way}"]
            low, high = wilson(sum(hits), len(hits))
            cells.append(f"{np.mean(hits):.1%} ({low:.0%} to {high:.0%})")
        return f"| {kind} | {' | '.join(cells)} |"


def deletion(classifier: Classifier, files: list[Path]) -> list[str]:
    """Rows of a table: what is left of a label's cosine, and how often it is still the best, after painting patches."""
    orders = ("that speak most for it", "at random", "that speak least for it")
    left: dict[tuple[str, float], list[tuple[float, bool]]] = {}
    draw = np.random.default_rng(0)
    for file in files:
        prediction = classifier(file)
        best = classifier.labels.index(prediction.top(1)[0][0])
        label = classifier.labels[best]
        found = classifier.explain(file, [label], prediction).of(label)
        pixels = classifier.bundle.preprocess()(file)
        ranks = {orders[0]: (-found).ravel().argsort(), orders[2]: found.ravel().argsort()}
        ranks[orders[1]] = draw.permutation(found.size)
        for order in orders:
            for share in DELETED:
                painted = paint(pixels, ranks[order][: round(share * found.size)], found.shape)
                features, _ = classifier.encode_image(painted[None])
                cosines = classifier.cosines(features, prediction.retrieved[None])[0]
                before = float(_cosine(classifier, prediction, best))
                left.setdefault((order, share), []).append((before - cosines[best], int(cosines.argmax()) == best))
    rows = []
    for order in orders:
        cells = []
        for share in DELETED:
            drops, same = zip(*left[order, share], strict=True)
            cells.append(f"{-np.mean(drops):+.3f}, {np.mean(same):.0%}")
        rows.append(f"| {order} | {' | '.join(cells)} |")
    return rows


def paint(pixels: NDArray[np.float32], patches: NDArray[np.intp], grid: tuple[int, ...]) -> NDArray[np.float32]:
    """Paint patches of an image [3, S, S] in the mean colour, which is 0 after normalization."""
    painted, side = pixels.copy(), pixels.shape[1] // grid[0]
    for patch in patches:
        row, column = divmod(int(patch), grid[1])
        painted[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0
    return painted


def _cosine(classifier: Classifier, prediction: Prediction, label: int) -> np.float32:
    assert prediction.image_feature is not None
    return classifier.cosines(prediction.image_feature[None], prediction.retrieved[None])[0, label]


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    arguments = parser.parse_args()
    folders = sorted(folder for folder in arguments.photos.iterdir() if folder.is_dir())
    labels = [class_words(folder.name) for folder in folders]
    with Classifier.load(arguments.bundle, labels, device="cpu") as classifier:
        model = classifier.bundle.manifest.model
        backbone = load_backbone(model["name"])
        tower = image_tower(backbone.clip.visual, backbone.joint_width, model["name"])
        blocks = min(tower.layers - 1, 8)
        pointing = Pointing(classifier, tower, blocks)
        for canvas in canvases(arguments.photos, COUNT):
            pointing.look_at(*canvas)
        every = [file for folder in folders for file in sorted(folder.iterdir())]
        rows = deletion(classifier, random.Random(0).sample(every, COUNT))
    card = json.loads((arguments.bundle / "parity.json").read_text())["card"]
    shares = " | ".join(f"{share:.0%} of the patches" for share in DELETED)
    lines = [
        f"{model['name']}, {len(labels)} classes of {arguments.photos.parent.name}, {COUNT} canvases and photographs."
        f" The prompt was trained on {card['train']['images']} images of {card['data']}.",
        "",
        "Share of canvases whose map points to the half that was named, with its 95% interval; chance is 50%.",
        "",
        "| map | of the label | in contrast to the other label |",
        "|---|---|---|",
        *(pointing.row(kind) for kind in ("explanation", "raw similarity of patches")),
        "| chance | 50.0% | 50.0% |",
        "",
        "The same, by the number of last blocks whose attention is divided; `attri-export --explain` takes 4.",
        "",
        "| blocks | of the label | in contrast to the other label |",
        "|---|---|---|",
        *(pointing.row(f"last {number}") for number in range(1, blocks + 1)),
        "",
        "Patches painted in the mean colour: change of the label's cosine, and how often it is still the best label.",
        "",
        f"| patches | {shares} |",
        "|---|" + "---|" * len(DELETED),
        *rows,
    ]
    keep(Path(__file__), __doc__ or "", "\n".join(lines))


if __name__ == "__main__":
    main()
