"""Drawn scenes: images whose labels are exact."""
