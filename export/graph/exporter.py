"""PyTorch's ONNX exporter in half its time, for graphs like ours.

PyTorch traces a module, traces the result again to decompose its operators, and tries some 80 rewrites on every node of
the graph. ONNX has an operator for nearly all that our modules call, so that the second trace changes little, and few
of the rewrites find anything. Both are replaced here by what is needed; its table of operators, which it makes anew for
every graph, is kept. The parity check compares every graph with the module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants, inline
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules
from torch import nn
from torch.export import ExportedProgram
from torch.onnx import OnnxExporterError
from torch.onnx._internal.exporter._registration import ONNXRegistry

__all__ = ["export"]

Table = dict[Any, Callable[..., Any]] | None
Decompose = Callable[[ExportedProgram, Table], ExportedProgram]

PYTORCHS: Decompose = ExportedProgram.run_decompositions
NEW_TABLE = ONNXRegistry.from_torchlib
OPERATORS = functools.cache(NEW_TABLE)  # a second of processor time, and nothing is added to it
aten = torch.ops.aten
# Operators that ONNX has under another name, and those that are made of others, for which the second trace is needed.
SAME = {aten.__and__.Tensor: aten.bitwise_and.Tensor, aten.__or__.Tensor: aten.bitwise_or.Tensor}
MADE_OF_OTHERS = {aten.adaptive_avg_pool2d.default, aten.relu_.default}
REWRITES = [
    rules.cast_cast_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
]


def export(module: nn.Module, examples: tuple[torch.Tensor, ...], **options: Any) -> onnx.ModelProto:
    """Trace a module to ONNX.

    Args:
        module: To be traced, in eval mode.
        examples: Of its inputs.
        options: Of `torch.onnx.export`: names, dynamic shapes, opset.
    """
    options |= {"dynamo": True, "optimize": False, "verbose": False}
    try:
        with replaced(decompose, OPERATORS):
            program = torch.onnx.export(module, examples, **options)
    except OnnxExporterError:  # of an operator that is not in `MADE_OF_OTHERS`, or of the module
        program = torch.onnx.export(module, examples, **options)
    assert program is not None
    tidy(program.model)
    return program.model_proto


@contextmanager
def replaced(decompose: Decompose, operators: Callable[..., ONNXRegistry]) -> Iterator[None]:
    """Replace what the exporter decomposes a traced program with, and where it has its table of operators from."""
    ExportedProgram.run_decompositions = decompose  # type: ignore[method-assign]
    ONNXRegistry.from_torchlib = staticmethod(operators)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = PYTORCHS  # type: ignore[method-assign]
        ONNXRegistry.from_torchlib = NEW_TABLE  # type: ignore[method-assign]


def decompose(program: ExportedProgram, table: Table = None) -> ExportedProgram:
    """Rename operators, and drop casts that change nothing and the tracer's checks, in place; or trace again."""
    graph = program.graph
    if any(node.target in MADE_OF_OTHERS for node in graph.nodes):
        return PYTORCHS(program, table)
    for node in list(graph.nodes):
        if node.target in SAME:
            node.target = SAME[node.target]
        elif node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target is aten.to.dtype:
            tensor, dtype = node.args[:2]
            if tensor.meta["val"].dtype == dtype:
                node.replace_all_uses_with(tensor)
                graph.erase_node(node)
            else:
                node.target, node.args, node.kwargs = aten._to_copy.default, (tensor,), {"dtype": dtype}
    program.graph_module.recompile()
    return program


def tidy(model: ir.Model) -> None:
    """Fold constants and leave out what has no effect, in place."""
    inline(model)
    for _ in range(2):
        fold_constants(model, onnx_shape_inference=True)
        RewritePass(REWRITES)(model)
        common.RemoveUnusedNodesPass()(model)
    for tidied in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    ):
        tidied(model)
