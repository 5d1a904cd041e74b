"""RIPE inside other tools; each module imports the tool that it serves."""
