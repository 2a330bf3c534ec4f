"""Measurements with their spread, each ratio between things measured in the same run: `make bench`. Judges nothing."""
