"""bench: a benchmark harness for variational inference."""

__version__ = "0.1.0"
