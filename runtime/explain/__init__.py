"""Which parts of an image speak for a label: the graph of explanations, what it says, and heat maps."""
