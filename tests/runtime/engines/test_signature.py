"""Signatures in the manifest against the graphs themselves."""

from __future__ import annotations

import dataclasses

import onnx
import pytest

from attri.export.graph.signature import signature_of
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.engines.signature import GraphSignature, read_signature
from attri.runtime.errors import BundleError


@pytest.mark.parametrize("name", [VISION, TEXT])
def test_the_manifest_holds_the_signature_of_each_graph(bundle, name):
    signature = read_signature(Bundle.open(bundle), name)
    assert signature == signature_of(onnx.load(bundle / name))
    assert signature.dims == (set("BN") if name == VISION else set("BNPRCT"))


def test_read_signature_names_the_file_that_has_none(bundle):
    opened = Bundle.open(bundle)
    for graphs in ({}, {VISION: {"inputs": 1}}):
        unsigned = dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, graphs=graphs))
        with pytest.raises(BundleError, match=r"has no signature of vision.onnx in its manifest: export it again"):
            read_signature(unsigned, VISION)


def test_to_dict_and_from_dict_are_inverse(bundle):
    signature = read_signature(Bundle.open(bundle), TEXT)
    assert GraphSignature.from_dict(signature.to_dict()) == signature
