"""Pages and figures for a browser."""
