"""The training objective, one module a concept."""
