"""From scores of single frames to a decision."""
