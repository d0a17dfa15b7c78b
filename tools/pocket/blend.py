"""Weights between two of the same model: what a longer training learned, without forgetting all of the start.

    python -m tools.pocket.blend OLD NEW --share 0.85 --output weights.safetensors

Every tensor is `OLD + share (NEW - OLD)`; token rows that one of them has not seen are the other's (Wortsman et al.
2022, "Robust fine-tuning of zero-shot models").
"""

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from attri.train.pocket import load
from tools.pocket.pretrain import write

TOKENS = "token_embedding.weight"


def blend(old: Path, new: Path, share: float) -> tuple[dict[str, Tensor], list[int]]:
    """The blended tensors by name, and the ids of the token rows that either has seen."""
    first, second = load(old).state_dict(), load(new).state_dict()
    tensors = {name: torch.lerp(first[name], second[name], share) for name in first}
    seen = [set(token_ids(file)) for file in (old, new)]
    for own, rows in ((seen[0] - seen[1], first[TOKENS]), (seen[1] - seen[0], second[TOKENS])):
        one = torch.tensor(sorted(own), dtype=torch.long)
        tensors[TOKENS][one] = rows[one]
    ids = sorted(seen[0] | seen[1])
    tensors[TOKENS] = tensors[TOKENS][ids]
    return tensors, ids


def token_ids(file: Path) -> list[int]:
    """Ids of the token rows that a file of weights holds."""
    with safe_open(file, "pt") as stream:
        return list(stream.get_tensor("token_ids").tolist())


def main() -> None:
    """Parse the command line, blend, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--share", type=float, default=0.85, help="of the new weights, 0 to 1")
    parser.add_argument("--output", type=Path, default=Path("weights.safetensors"))
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error("--share is from 0 to 1")
    write(*blend(arguments.old, arguments.new, arguments.share), arguments.output)


if __name__ == "__main__":
    main()
