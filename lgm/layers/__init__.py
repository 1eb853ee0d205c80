"""Layers that LGM's and the multi-view diffusion's networks are made of, with their kernels."""
