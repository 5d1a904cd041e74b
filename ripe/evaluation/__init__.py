"""Accuracy on annotated pairs, beside rivals."""
