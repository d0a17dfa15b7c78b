"""Labels to text features: tokens, the text graph, its cache."""
