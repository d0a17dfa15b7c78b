"""Write train/model/backbones.json, what each model of open_clip costs, and docs/backbones.md, the page of all models.

python tools/backbones.py           # the page, from the costs that are known
python tools/backbones.py --count   # the costs too: minutes, without weights
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "backbones.md"
FAMILIES = {
    "open_clip.transformer": "CLIP's ViT",
    "open_clip.modified_resnet": "CLIP's ResNet",
    "timm.eva": "EVA and PE-Core",
    "timm.vitamin": "ViTamin",
    "timm.vision_transformer_hybrid": "MobileCLIP-B",
    "timm.vision_transformer": "timm's ViT (SigLIP, MobileCLIP2-L, vit_medium)",
    "timm.vision_transformer_relpos": "ViT with relative positions",
    "timm.convnext": "ConvNeXt",
    "timm.swin_transformer": "Swin",
    "timm.fastvit": "FastViT (MobileCLIP-S)",
}
INTRODUCTION = """# Backbones

<!-- Made by tools/backbones.py: edit that. -->

Which models of open_clip {version} attri takes, what they cost, and why it does not take the others. A model is an
image tower and a text tower; `attri-train --list-models [WORD]` prints the same on a terminal. Beside these names
`--model` takes `local-dir:FOLDER` (a folder that open_clip wrote, or a `CLIPModel` or `SiglipModel` of Hugging
Face in safetensors) and `hf-hub:OWNER/NAME`, which are taken or refused by the same rules.

{supported} of {models} models are taken, {tags} of {all_tags} weight tags.

| family | models taken | weight tags taken | not taken, and why |
|---|---|---|---|
{families}

- **GFLOP** are floating-point operations as PyTorch counts them; a multiply-add counts as two. *vision* is one image;
  *label* is one label of four tokens of its own ("red apple", the full stop, EOT), which is paid when an image
  retrieves pool entries that the cache has not seen.
- In a text tower that is not causal (SigLIP, MobileCLIP-S, CLIPA) every token of a label depends on the image from the
  first prompted block on. Only the last two blocks are prompted there (`attri-train --depth`), and *once* counts the
  blocks before, which are computed when a label is set.
- **licence** is that of the weights, where it is known to attri: look at the card of the file that you use.
- A tower that shrinks its map from stage to stage (ConvNeXt, ResNet, Swin, FastViT) gives the patches of its last stage
  alone, 49 at 224 pixels, and its two or three blocks are shared in turn by all text blocks. `attri-train --sources`
  says otherwise, with a vision block for each prompted text block (`retrieval.sources` in the manifest).
- Every model exports in fp32 and fp16; int8 quantizes transformer blocks, so ConvNeXt, ResNet and FastViT are refused
  there. What each precision costs by family: [parity](../benchmarks/families.md).
- SigLIP and CLIPA have vocabularies of their own: `pip install 'attri[siglip]'`, on the device too. The tokenizer's
  file is fetched with the weights, or read from the model's folder (`tokenizer.json` and `tokenizer_config.json`), and
  travels in the bundle.
"""
ADVICE = """
## Which one

By operations alone, as ratios to {first}: what of them is time depends on the machine. Time and memory of one of each
family [on a CPU](../benchmarks/backbones.md), in one run, are near it: a cached frame takes as long with RN50 as with
{first}, 1.6 to 1.8 times with ViTamin-S and PE-Core-T, 3.1 to 3.9 times with the towers of 30 GFLOP and more, and 0.6
times with MobileCLIP2-S0; setting 100 labels takes 3 s there and 5 s with SigLIP2, else 2 ms. Only
a device can say what runs there; [the Jetson pages](howto/jetson/README.md) have the command that measures a bundle.

| model | cached frame | uncached frame, 100 labels | uncached frame, 1,000 labels | setting 100 labels, GFLOP |
|---|--:|--:|--:|--:|
{rows}

A cached frame costs the vision tower; an uncached one also every label, unless `--shortlist` bounds them.

- **On a CPU**: the fewest operations, so {first}, RN50, ViTamin-S or MobileCLIP2-S0 (whose weights are for research
  alone). [int8](howto/int8.md) is faster still, but quantizes no convolutions.
- **On a device of Orin Nano's class**: fp16, and images of 224 to 256 pixels. 10 cached frames a second of {b16} are
  {rate:.2f} TFLOP a second. Which family runs fastest there has not been measured.
- **With many labels**: a causal text tower, whose labels cost {causal} GFLOP where SigLIP2-B's cost {siglip}, or
  `--shortlist`. Where a scene stays and labels seldom change, the cache hides the difference.
- **For accuracy**: measure it on your own images ([compare](howto/compare.md)); no pretrained model has been measured
  with prompts here, and prompts in the last two blocks alone (SigLIP, MobileCLIP-S) not at all.
"""
ADVISED = (
    "ViT-B-32",
    "ViT-B-16",
    "RN50",
    "convnext_base",
    "PE-Core-T-16-384",
    "EVA02-B-16",
    "ViTamin-S",
    "MobileCLIP-B",
    "MobileCLIP2-S0",
    "ViT-B-32-SigLIP2-256",
    "ViT-B-16-SigLIP2",
)
HEADER = "| model | pixels | vision GFLOP | label GFLOP | once | weights and licence |\n|---|--:|--:|--:|--:|---|"


def page() -> str:
    """The page in Markdown."""
    import open_clip

    from attri.train.model.catalogue import entries

    every = entries()
    kinds: dict[str, list[Any]] = {}
    for entry in every:
        kinds.setdefault(FAMILIES.get(entry.family, entry.family), []).append(entry)
    rows, sections = [], []
    for kind in [*FAMILIES.values(), *(kind for kind in kinds if kind not in FAMILIES.values())]:
        members = kinds.get(kind, [])
        if not members:
            continue
        taken = [entry for entry in members if not entry.refusal]
        reasons: dict[str, int] = {}
        for entry in members:
            if entry.refusal:
                reasons[entry.refusal] = reasons.get(entry.refusal, 0) + 1
        why = "; ".join(f"{count}: {reason}" for reason, count in reasons.items())
        tags = sum(len(entry.tags) for entry in taken), sum(len(entry.tags) for entry in members)
        rows.append(f"| {kind} | {len(taken)} of {len(members)} | {tags[0]} of {tags[1]} | {why} |")
        sections.append(f"\n## {kind}\n\n{HEADER}")
        sections += [row(entry) for entry in members]
    supported = [entry for entry in every if not entry.refusal]
    return (
        INTRODUCTION.format(
            version=open_clip.__version__,
            supported=len(supported),
            models=len(every),
            tags=sum(len(entry.tags) for entry in supported),
            all_tags=sum(len(entry.tags) for entry in every),
            families="\n".join(rows),
        )
        + advice({entry.name: entry for entry in every})
        + "\n".join(sections)
        + "\n"
    )


def advice(every: dict[str, Any]) -> str:
    """Which model for what, by operations."""
    from attri.train.model.catalogue import number

    first, *_ = ADVISED
    rows = []
    for name in ADVISED:
        entry = every[name]

        def ratio(labels: int, entry: Any = entry) -> str:
            return f"{(entry.vision + labels * entry.label) / (every[first].vision + labels * every[first].label):.2g}"

        once = number(100 * entry.once) if entry.once else ""
        rows.append(f"| {name} | {' | '.join(ratio(labels) for labels in (0, 100, 1000))} | {once} |")
    return ADVICE.format(
        first=first,
        b16="ViT-B-16",
        rate=10 * every["ViT-B-16"].vision / 1000,
        causal=number(every[first].label),
        siglip=number(every["ViT-B-16-SigLIP2"].label),
        rows="\n".join(rows),
    )


def row(entry: Any) -> str:
    """One model, as a row."""
    from attri.train.model.catalogue import number
    from attri.train.model.foldable import nearest_model

    weights = "; ".join(f"`{tag}` {licence}".strip() for tag, licence in entry.tags.items()) or "none"
    if entry.refusal:
        weights = f"**not taken**: {entry.refusal}; nearest: {nearest_model(entry.name)}"
    once = number(entry.once) if entry.once else ""
    return f"| {entry.name} | {entry.size} | {number(entry.vision)} | {number(entry.label)} | {once} | {weights} |"


def count() -> None:
    """Count the operations of every image tower, on tensors without memory."""
    import open_clip
    import torch
    from open_clip.model import CLIP
    from torch.utils.flop_counter import FlopCounterMode

    from attri.train.model.catalogue import COSTS

    costs = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision = config["vision_cfg"]
        with torch.device("meta"), torch.no_grad():
            beside: Any = {"layers": 1, "width": 64, "heads": 1}  # a text tower of next to nothing
            tower: Any = CLIP(config["embed_dim"], vision, beside, config.get("quick_gelu", False)).visual
            tower = tower.eval().requires_grad_(False)
            trunk = getattr(tower, "trunk", None)
            size = getattr(getattr(trunk, "patch_embed", None), "img_size", None) or [vision.get("image_size", 224)]
            with FlopCounterMode(display=False) as counter:
                tower(torch.empty(1, 3, size[0], size[0]))
        parameters = sum(parameter.numel() for parameter in tower.parameters())
        costs[name] = {"size": size[0], "vision": round(counter.get_total_flops() / 1e9, 3), "parameters": parameters}
        print(name, costs[name], file=sys.stderr)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(cost)}" for name, cost in sorted(costs.items()))
    COSTS.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    if "--count" in sys.argv:
        count()
    PAGE.write_text(page(), encoding="utf-8")
