"""Mesh packs: reading 3D models, simplifying them, writing them into one file."""
