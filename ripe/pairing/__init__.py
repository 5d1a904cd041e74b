"""Which pairs of many photos are matched: all, those taken one after the other or near each other, or alike."""
