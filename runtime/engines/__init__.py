"""Run a graph: ONNX Runtime, TensorRT, and the choice between them."""
