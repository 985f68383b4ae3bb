"""Tensors in, tensors out: noise, bounds of log-weights, and optimisers."""
