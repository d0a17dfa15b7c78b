"""INT8 ranges and confidence (temperature, rejection threshold), fitted on real pictures."""
