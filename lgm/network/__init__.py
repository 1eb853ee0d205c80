"""LGM: four views to Gaussians."""
