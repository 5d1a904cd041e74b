"""The public data sets, one module each: its `SET` says all that the rest of the package knows of it."""
