"""Training batches: drawn from meshes, or read from rendered views; augmentations."""
