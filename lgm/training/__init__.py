"""Data, augmentations, losses and the training loop; nothing else in the library imports this."""
