"""Calibration on real images: int8 activation ranges, score temperature and rejection threshold."""
