"""Which Gaussians of a splat to keep, and how large it is."""
