"""Rendered views on disk: shards, and other programs' folders."""
