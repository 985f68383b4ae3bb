"""Data files: which there are, where they lie, whether they are right, and how they are fetched."""
