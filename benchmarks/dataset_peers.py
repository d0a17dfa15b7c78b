"""What attri-batch is measured beside: a loop, threads that share a batch, open_clip in a DataLoader, clip-retrieval.

Each is a function that gives the best labels of the images of a folder, in their order; benchmarks/datasets.py runs it
in a process of its own:

    python -m benchmarks.dataset_peers NAME BUNDLE FOLDER LABELS PROMPT
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attri.runtime.images import list_images
from attri.train import pocket
from benchmarks.common import CORES

Found = Iterator[list[tuple[str, float]]]
TEMPLATE = "a photo of a {}."
BATCH = 64  # images of PyTorch at once


def loop(bundle: Path, folder: Path, labels: list[str], prompt: Path) -> Found:
    """The best labels of each image, with what the documentation of attri shows first."""
    from attri.runtime import Classifier

    classifier = Classifier.load(bundle, labels, prompt=prompt)
    for file in list_images(folder):
        yield classifier(Image.open(file)).top(2)


def shared_batch(bundle: Path, folder: Path, labels: list[str], prompt: Path) -> Found:
    """As attri-batch was until batches went side by side: the threads of ONNX Runtime share each."""
    from attri.runtime.batch import ClassifyBatch

    classify = ClassifyBatch(bundle, labels, prompt=prompt, topk=2, threads=CORES)
    for batch in classify.map([{"image": list_images(folder)}]):
        yield from ([(each["label"], each["score"]) for each in top] for top in batch["top"])


def open_clip_loader(bundle: Path, folder: Path, labels: list[str], prompt: Path) -> Found:
    """As one writes it with open_clip and PyTorch."""
    import torch
    from open_clip.transform import image_transform
    from torch.utils.data import DataLoader

    model = pocket.load()
    transform = image_transform(model.visual.image_size, is_train=False, mean=pocket.MEAN, std=pocket.STD)
    texts = text_features(model, labels)
    with torch.no_grad():
        photographs: Any = Photographs(list_images(folder), transform)
        for pixels in DataLoader(photographs, BATCH, num_workers=CORES):
            yield from best_of(model.encode_image(pixels, normalize=True), texts, model, labels)


def clip_retrieval(bundle: Path, folder: Path, labels: list[str], prompt: Path) -> Found:
    """Embeddings by clip-retrieval's inference, with as many workers as cores, and their labels by a product."""
    import open_clip
    import torch
    from clip_retrieval.clip_inference import clip_inference

    model = pocket.load()
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "pocket.json"
        config.write_text(json.dumps(pocket.CONFIG))
        open_clip.add_model_config(config)
        weights = Path(scratch) / "weights.pt"
        torch.save(model.state_dict(), weights)
        with results_only():
            clip_inference(
                str(folder),
                f"{scratch}/out",
                batch_size=BATCH,
                num_prepro_workers=CORES,
                enable_text=False,
                clip_model=f"open_clip:pocket/{weights}",
            )
        features = np.concatenate([np.load(file) for file in sorted(Path(scratch, "out/img_emb").glob("*.npy"))])
    yield from best_of(torch.tensor(features.astype(np.float32)), text_features(model, labels), model, labels)


@contextmanager
def results_only() -> Iterator[None]:
    """What is printed meanwhile, by processes that are started too, goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)


def text_features(model: Any, labels: list[str]) -> Any:
    """Unit features of the labels, as of plain CLIP."""
    import torch
    from open_clip.tokenizer import SimpleTokenizer

    tokenize = SimpleTokenizer(context_length=pocket.CONFIG["text_cfg"]["context_length"])
    with torch.no_grad():
        return model.encode_text(tokenize([TEMPLATE.format(label) for label in labels]), normalize=True)


def best_of(images: Any, texts: Any, model: Any, labels: list[str]) -> Found:
    """The best two labels of each image."""
    best = (model.logit_scale.detach().exp() * images @ texts.T).softmax(1).topk(2)
    for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        yield [(labels[number], value) for number, value in zip(numbers, values, strict=True)]


class Photographs:
    """A data set as PyTorch has them."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        """Pixels [3, S, S]."""
        return self.transform(Image.open(self.files[number]))


PEERS: dict[str, Callable[[Path, Path, list[str], Path], Found]] = {
    "a plain loop": loop,
    "threads that share a batch": shared_batch,
    "open_clip in a DataLoader": open_clip_loader,
    "clip-retrieval": clip_retrieval,
}
LOOP, SHARED, LOADER, RETRIEVAL = PEERS


def main() -> None:
    """Print a line of JSON for each image, as attri-run does."""
    name, *words = sys.argv[1:]
    bundle, folder, labels, prompt = map(Path, words)
    found = PEERS[name](bundle, folder, labels.read_text(encoding="utf-8").splitlines(), prompt)
    for file, top in zip(list_images(folder), found, strict=True):
        best = [{"label": label, "score": score} for label, score in top]
        print(json.dumps({"source": str(file), "label": best[0]["label"], "top": best}))


if __name__ == "__main__":
    main()
