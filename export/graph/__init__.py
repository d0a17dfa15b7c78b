"""ONNX graphs: the modules that are traced, tracing, opset, precision."""
