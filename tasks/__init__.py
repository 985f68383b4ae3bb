"""Inference tasks: one file, one task."""
