"""One training run: network, losses, optimizer, steps, checkpoints."""
