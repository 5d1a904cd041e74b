"""Presets of training runs, in YAML; see docs/training.md."""
