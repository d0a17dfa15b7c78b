"""Zero-shot accuracy of the pocket backbone: on emoji of each style, on the image folders, on photographs.

    python -m tools.pocket.evaluate pocket.npz --photos PHOTOS

It evaluates the weights in train/pocket, as `attri.train.pocket.load` returns them, or those of a file. PHOTOS holds
some of `grocery`, `clothing`, `trashnet` and `caltech101`; only what was kept from training is read.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor

from attri.train.pocket import CONFIG, IMAGES, OTHER_STYLE, load
from tools.pocket.concepts import from_table
from tools.pocket.data import Vocabulary, normal, on_white
from tools.pocket.emoji import UNSEEN
from tools.pocket.photos import SETS, Photo, photos_of_set
from tools.pocket.render import open_square
from tools.pocket.words import Emoji

Encode = Callable[[list[str]], Tensor]  # captions to unit text features [N, D]


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """open_clip's `encode_text` for fewer tokens than the context holds. [N, T] -> [N, D], unit rows."""
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]  # [N, T, W]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    last = states[torch.arange(len(tokens)), tokens.argmax(1)]  # [N, W]
    return F.normalize(last @ model.text_projection, dim=-1)


def encode_captions(model: CLIP, vocabulary: Vocabulary, captions: list[str]) -> Tensor:
    """[N, D] features of many captions, similar lengths together so that few tokens are padding."""
    order = sorted(range(len(captions)), key=lambda n: len(vocabulary.encode(captions[n])))
    parts = [order[start : start + 128] for start in range(0, len(order), 128)]
    features = torch.cat([encode_text(model, vocabulary([captions[n] for n in part])) for part in parts])
    return features[torch.tensor(order).argsort()]


@torch.no_grad()
def evaluate_emoji(model: CLIP, cache: Path, encode: Encode) -> dict[str, float]:
    """Accuracy in percent, per style: of all names, the first five of them, and of all sub-categories."""
    arrays = np.load(cache)
    emoji = from_table(Emoji, json.loads(str(arrays["emoji"])))
    styles, pixels = arrays["styles"].tolist(), torch.from_numpy(arrays["pixels"])
    kinds = sorted({one.kinds[0] for one in emoji})
    names, classes = encode(prompts([one.names[0] for one in emoji])), encode(prompts(kinds))
    figures = {}
    for style in ("noto", *UNSEEN):
        rows = [
            (image, number)
            for image, (place, number, variant) in enumerate(arrays["rows"].tolist())
            if styles[place] == style and not variant
        ]
        truth = torch.tensor([number for _, number in rows])
        features = encode_images(model, pixels[[image for image, _ in rows]])
        kind = torch.tensor([kinds.index(emoji[index].kinds[0]) for index in truth.tolist()])
        top = (features @ names.T).topk(5).indices  # [N, 5]
        figures[f"{style} name"] = percent(top[:, 0] == truth)
        figures[f"{style} top-5"] = percent((top == truth[:, None]).any(1))
        figures[f"{style} kind"] = percent((features @ classes.T).argmax(1) == kind)
    return figures


@torch.no_grad()
def evaluate_photos(model: CLIP, name: str, folder: Path, encode: Encode) -> dict[str, float]:
    """Accuracy in percent on the test photographs of one set: of its classes, and of grocery's coarse ones."""
    photos = [photo for photo in photos_of_set(name, folder) if photo.part == "test"]
    pixels = np.stack([open_square(photo.path, CONFIG["vision_cfg"]["image_size"]) for photo in photos])
    images = normal(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    features = torch.cat([model.encode_image(part, normalize=True) for part in torch.split(images, 256)])
    figures = {}
    for level, labels in levels(photos).items():
        classes = sorted(set(labels) - {""})
        rows = [row for row, label in enumerate(labels) if label]
        truth = torch.tensor([classes.index(labels[row]) for row in rows])
        right = (features[rows] @ encode(prompts(classes)).T).argmax(1) == truth
        figures[f"{name} {level}, {len(classes)} classes"] = percent(right)
    return figures


def levels(photos: list[Photo]) -> dict[str, list[str]]:
    """The labels of each photograph at each level of a set; none where the level leaves it out."""
    found = {"names": [photo.name for photo in photos]}
    if any(photo.coarse for photo in photos):
        found["fruit and vegetables"] = ["" if photo.concept.kinds[0] == "package" else photo.name for photo in photos]
        found["coarse"] = [photo.coarse for photo in photos]
    return found


@torch.no_grad()
def evaluate_folder(model: CLIP, folder: Path, encode: Encode) -> dict[str, float]:
    """Accuracy in percent of each class of a folder that holds one folder per class, and of all images."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    texts = encode(prompts([name.replace("_", " ") for name in classes]))
    right: dict[str, Tensor] = {}
    for number, name in enumerate(classes):
        pixels = [np.asarray(Image.open(path)) for path in sorted((folder / name).glob("*.png"))]
        images = normal(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255)
        right[name] = (model.encode_image(images, normalize=True) @ texts.T).argmax(1) == number
    return {name: percent(hits) for name, hits in right.items()} | {"all": percent(torch.cat(list(right.values())))}


def prompts(words: list[str]) -> list[str]:
    """The captions that stand for the classes."""
    return [f"a photo of a {word}." for word in words]


def encode_images(model: CLIP, pixels: Tensor) -> Tensor:
    """RGBA images [N, H, W, 4] uint8 -> unit features [N, D]."""
    return torch.cat([model.encode_image(on_white(part), normalize=True) for part in torch.split(pixels, 256)])


def percent(right: Tensor) -> float:
    """The share of True."""
    return round(100 * right.float().mean().item(), 1)


def main() -> None:
    """Evaluate the weights in train/pocket."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="the file that collect wrote")
    parser.add_argument("--photos", type=Path, help="folder with a folder per set of photographs")
    parser.add_argument("--weights", type=Path, help="a file that pretrain wrote; those in train/pocket without it")
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.weights), SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])

    @torch.no_grad()
    def encode(captions: list[str]) -> Tensor:
        features: Tensor = model.encode_text(tokenizer(captions), normalize=True)
        return features

    tables = {"emoji": evaluate_emoji(model, arguments.cache, encode)}
    for folder in (IMAGES / "test", OTHER_STYLE):
        tables[f"{folder.parent.name}/{folder.name}"] = evaluate_folder(model, folder, encode)
    for name in (*SETS, "caltech101"):
        if arguments.photos and (arguments.photos / name).exists():
            tables[name] = evaluate_photos(model, name, arguments.photos / name, encode)
    for title, figures in tables.items():
        print(title, *(f"  {name:44} {value:5.1f}" for name, value in figures.items()), sep="\n")


if __name__ == "__main__":
    main()
