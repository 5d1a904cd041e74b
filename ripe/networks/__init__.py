"""The networks: image in, score map and feature maps out."""
