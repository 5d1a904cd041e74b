"""Structure from motion with our features: which pairs are matched, their matches, and the mapping by COLMAP."""
