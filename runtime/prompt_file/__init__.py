"""What a prompt file holds: facts, tensors, and on request the training images; `attri.runtime.prompt` reads it."""
