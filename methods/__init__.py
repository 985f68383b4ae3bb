"""Variational methods: one file, one method."""
