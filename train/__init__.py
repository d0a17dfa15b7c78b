"""AttriPrompt prompt learning on a frozen CLIP, in PyTorch."""
