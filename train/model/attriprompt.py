"""The AttriPrompt model: retrieval, prompt pool and prompted text encoder on a frozen CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attri.runtime.errors import UsageError
from attri.runtime.text.label_tokens import LabelTokens
from attri.runtime.text.padded_tokens import PaddedTokens
from attri.runtime.text.reader import Tokens
from attri.train.config import PromptConfig
from attri.train.model.backbone import Backbone
from attri.train.model.bidirectional import label_states, prompted_states
from attri.train.model.open_clip_types import ResidualBlock
from attri.train.model.pool import PromptPool
from attri.train.model.prompted_text import EmbeddedLabels, prompted_text, tables
from attri.train.model.retrieval import Retrieval, source_blocks
from attri.train.model.vision import VisionTower

MAX_ACTIVATIONS = 4 << 30  # bytes the text encoder may keep for gradients before classes are encoded in chunks
BYTES_PER_ACTIVATION = 100  # kept per token, block and channel, measured in float32
LAST_BLOCKS = 2  # prompted ones of a text tower that is not causal, where the config does not say (our choice)
LABELS_AT_ONCE = 64  # whose states are computed together, which bounds the memory
PLAIN_AT_ONCE = 4096  # classes that are encoded together without prompts, for one image


class AttriPrompt(nn.Module):
    """AttriPrompt on a frozen CLIP. Only `pool` is trained; both towers are the backbone's own modules.

    Args:
        backbone: a frozen model that can be folded.
        config: shape of the pool and of retrieval.

    Raises:
        UsageError: the config does not fit the backbone.
    """

    def __init__(self, backbone: Backbone, config: PromptConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.text = backbone.text_tower()
        layers, width = len(self.text.blocks), self.text.positional_embedding.shape[1]
        default = layers if self.text.causal else min(LAST_BLOCKS, layers)
        self.depth = default if config.depth is None else config.depth
        if not 1 <= self.depth <= layers:
            raise UsageError(f"depth is {config.depth}: {backbone.name} has {layers} text blocks")
        tower = backbone.tower
        self.pool = PromptPool(config, self.depth, width, tower.joint_width)
        try:
            retrieval = Retrieval(tower.grid, tower.prefix, config.clusters, config.lloyd_steps, config.kmeans_init)
        except ValueError as error:
            raise UsageError(f"clusters is {config.clusters}: {error}") from error
        self.first = 0 if self.text.causal else layers - self.depth  # prompted block, counted from 0
        blocks = range(self.first + 1, self.first + self.depth + 1)
        sources = source_blocks(tower.layers, layers, blocks)
        if config.sources is not None:
            sources = list(config.sources)
            if len(sources) != self.depth or max(sources) > tower.layers:
                raise UsageError(
                    f"sources is {','.join(map(str, sources))}: give one vision block, 1 to {tower.layers}, for each of"
                    f" the {self.depth} prompted text blocks"
                )
        self.vision = VisionTower(tower, retrieval, sources)
        self._states: WeakKeyDictionary[PaddedTokens, Tensor] = WeakKeyDictionary()

    @property
    def prompted_blocks(self) -> Sequence[ResidualBlock]:
        """The text blocks that read prompts: the first `depth`, or the last of a tower that is not causal."""
        return self.text.blocks[self.first : self.first + self.depth]

    def embed(self, labels: LabelTokens) -> EmbeddedLabels:
        """Look up the token embeddings, on the model's device."""
        table = self.backbone.token_embedding
        ids = {name: torch.from_numpy(part).to(table.device) for name, part in vars(labels).items()}
        embedded = {name: table[ids[name]] for name in ("prefix", "suffix_tokens")}
        return EmbeddedLabels(**ids | embedded)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the key/value tables of the pool entries [L, N, p, 2 W] and of the static tokens [L, q, 2 W]."""
        blocks = self.prompted_blocks
        return tables(blocks, self.pool.tokens_of_blocks()), tables(blocks, self.pool.static)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images. pixels [B, 3, H, W] -> unit features [B, D], unit centres [B, L, K, D]."""
        features, centres = self.vision(pixels)
        assert centres is not None
        return features, centres

    @torch.no_grad()
    def states(self, labels: PaddedTokens) -> Tensor:
        """Return the states before the first prompted block [C, T, W], constants that are computed once.

        Of a tower that is not causal.
        """
        table = self.backbone.token_embedding
        known = self._states.get(labels)
        if known is None or (known.device, known.dtype) != (table.device, table.dtype):
            ids = torch.from_numpy(labels.ids).to(table.device)
            with torch.autocast(table.device.type, enabled=False):
                parts = [
                    label_states(self.text, table[part], self.text.blocks[: self.first])
                    for part in torch.split(ids, LABELS_AT_ONCE)
                ]
            known = self._states[labels] = torch.cat(parts)
        return known

    def encode_text(self, labels: Tokens, retrieved: Tensor) -> Tensor:
        """Encode every class for every image. retrieved [B, L, M] -> unit features [B, C, D].

        Many classes are encoded in chunks, with checkpointing where gradients are needed, so that memory stays bounded.
        """
        width = self.text.positional_embedding.shape[1]
        blocks = len(self.text.blocks) - self.first
        of_class = BYTES_PER_ACTIVATION * len(retrieved) * labels.longest * width * blocks
        size = max(1, MAX_ACTIVATIONS // max(1, of_class))
        encoders = list(self._encoders(labels, *self.tables(), size))
        if torch.is_grad_enabled() and len(encoders) > 1:
            parts = [
                checkpoint(encode, retrieved, use_reentrant=False, preserve_rng_state=False) for encode in encoders
            ]
        else:
            parts = [encode(retrieved) for encode in encoders]
        return torch.cat(parts, 1)

    def _encoders(
        self, labels: Tokens, pool: Tensor, static: Tensor, size: int
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield, for each `size` classes, what encodes them for retrieved entries."""
        for start in range(0, len(labels), size):
            some = slice(start, start + size)
            part = labels if size >= len(labels) else labels.take(some)
            if isinstance(part, LabelTokens):
                embedded = self.embed(part)
                yield partial(prompted_text, self.text, pool, static, labels=embedded)
            else:
                assert isinstance(labels, PaddedTokens)
                states = self.states(labels)[some]
                rows = torch.from_numpy(part.pooled_rows).to(states.device)
                blocks = self.text.blocks[self.first :]
                yield partial(prompted_states, self.text, blocks, pool, static, states=states, pooled_rows=rows)

    @torch.no_grad()
    def plain_text(self, labels: Tokens) -> Tensor:
        """Encode every class without prompts: the same encoder with empty tables. -> unit features [C, D]."""
        table = self.backbone.token_embedding
        pool, static = table.new_zeros(0, 1, 1, 2 * table.shape[1]), table.new_zeros(0, 0, 2 * table.shape[1])
        nothing = torch.zeros(1, 0, 0, dtype=torch.long, device=table.device)
        return torch.cat([encode(nothing)[0] for encode in self._encoders(labels, pool, static, PLAIN_AT_ONCE)])

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """Return logit scale * cosine. features [B, D], text [B, C, D] -> [B, C]."""
        return self.backbone.logit_scale * (text @ features[:, :, None]).squeeze(-1)

    def forward(self, pixels: Tensor, labels: Tokens) -> Tensor:
        """Classify images. pixels [B, 3, H, W] -> logits [B, C]."""
        features, centres = self.encode_image(pixels)
        return self.logits(features, self.encode_text(labels, self.pool.retrieve(centres)))
