"""Ports: where batches of frames come in and go out."""
