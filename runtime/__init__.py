"""Classify pictures with an exported bundle: NumPy on the host, ONNX Runtime or TensorRT for the graphs, no torch."""
