"""PyTorch's exporter with fewer steps: the same numbers, also where an operator needs the step that was left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from attri.export.graph.exporter import export


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "casts": lambda x: x.to(torch.float32) + x.to(torch.float16).to(torch.float32),
    "bitwise": lambda x: torch.where((x > 0) & (x < 1) | (x > 2), x, -x),
    "made of others": lambda x: F.adaptive_avg_pool2d(F.relu(x, inplace=True) * 2, 1),
    "not in the table": lambda x: F.silu(x.clone(), inplace=True) + F.hardswish(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_computes_what_its_module_does(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)) * 2
    module, batch = Function(FUNCTIONS[name]).eval(), torch.export.Dim("B", min=1)
    shapes = {"dynamic_shapes": ({0: batch},), "input_names": ["x"], "output_names": ["y"], "opset_version": 18}
    before = ExportedProgram.run_decompositions
    with torch.no_grad():
        proto = export(module, (torch.zeros(2, 2, 4, 4),), **shapes)
        expected = module(x.clone()).numpy()
    assert ExportedProgram.run_decompositions is before
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"x": x.numpy()})[0] - expected).max() < 1e-6  # one operation or two in float32
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    assert len(casts) == (2 if name == "casts" else 0)  # a cast that changes nothing is left out
