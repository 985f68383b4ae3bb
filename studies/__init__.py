"""Stored studies (YAML)."""
