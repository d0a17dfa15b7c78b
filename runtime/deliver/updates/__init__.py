"""attri-run beside the attri-bundle that keeps its bundle up to date: what they tell each other."""
