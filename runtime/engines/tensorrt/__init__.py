"""TensorRT engines: build, cache, verify and run them."""
