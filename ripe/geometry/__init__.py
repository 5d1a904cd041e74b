"""Two-view geometry."""
