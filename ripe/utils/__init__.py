"""Helpers under their published import paths."""
