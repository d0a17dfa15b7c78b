"""Export of a trained prompt to a bundle: two static ONNX graphs that agree with the PyTorch model."""
