"""Data sets and training pairs: where they are had, how they are read, and the views that are made of them."""
