"""RIPE: keypoints and descriptors learnt from unlabeled image pairs."""
