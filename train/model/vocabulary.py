"""The tokenizer of a model with a vocabulary of its own: from its folder, or from where open_clip's config names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attri.runtime.bundle import CLEANS, TOKENIZER
from attri.runtime.errors import FailedError, MissingExtra, UsageError
from attri.runtime.text.tokenizer_file import FileTokenizer

CLIP_VOCABULARY = 49408  # CLIP's byte-pair encoding, which the runtime has itself
CONFIG = "tokenizer_config.json"


def own_tokenizer(text: dict[str, Any], folder: Path | None = None) -> FileTokenizer | None:
    """Read the tokenizer of a model; None where it reads CLIP's words.

    Args:
        text: `text_cfg` of open_clip's config.
        folder: of the model; without one the tokenizer is fetched by the name in the config.

    Raises:
        FailedError: its files cannot be had.
        UsageError: they are no tokenizer that attri can run on a device.
    """
    if text.get("vocab_size", CLIP_VOCABULARY) == CLIP_VOCABULARY:
        return None
    options = text.get("tokenizer_kwargs", {})
    content, config = (_read(name, str(text.get("hf_tokenizer_name")), folder) for name in (TOKENIZER, CONFIG))
    return build(content, config, options.get("clean", "whitespace"), options.get("strip_sep_token", False))


def build(content: bytes, config: bytes, clean: str, strip_sep: bool = False) -> FileTokenizer:
    """Write into a tokenizer what the runtime has to know of it: how it pads.

    Args:
        content: of tokenizer.json.
        config: of tokenizer_config.json, which names the padding.
        clean: what is done to words before.
        strip_sep: whether the mark at the end becomes id 0, as open_clip does for CLIPA.

    Raises:
        MissingExtra: the package `tokenizers` is not installed.
        UsageError: they are no tokenizer that attri can run on a device.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtra("tokenizers") from error
    try:
        if clean not in CLEANS:
            raise ValueError(f"words are cleaned by {clean!r}")
        said, raw = json.loads(config), json.loads(content)
        if strip_sep:
            _strip_sep(raw["post_processor"])
        tokenizer = Tokenizer.from_str(json.dumps(raw))
        pad = said["pad_token"]
        pad = pad["content"] if isinstance(pad, dict) else pad
        if (number := tokenizer.token_to_id(pad)) is None:
            raise ValueError(f"it has no token {pad!r}")
        tokenizer.no_truncation()
        tokenizer.enable_padding(direction=said.get("padding_side", "right"), pad_id=number, pad_token=pad)
    except Exception as error:  # the package raises Exception itself
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"the model's {TOKENIZER} and {CONFIG} are no tokenizer that attri can use: {reason}"
        ) from error
    return FileTokenizer(tokenizer.to_str().encode(), clean)


def _strip_sep(processor: dict[str, Any]) -> None:
    """Give the id 0 to the mark that BERT puts last."""
    if processor["type"] == "TemplateProcessing":
        processor["special_tokens"]["[SEP]"]["ids"] = [0]
    else:
        processor["sep"][1] = 0


def _read(name: str, repository: str, folder: Path | None) -> bytes:
    if folder is not None:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise FailedError(
                f"{folder} has no {name}, without which its words cannot be read: save the model's tokenizer there"
            ) from error
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name)).read_bytes()
    except Exception as error:  # what the network makes of it has no common kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FailedError(
            f"{name} of {repository} cannot be fetched ({reason}): a folder with the model and its tokenizer can be"
            " given instead, as local-dir:FOLDER"
        ) from error
