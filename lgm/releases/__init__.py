"""The released models: which there are, where they lie, and how they are fetched.

These modules know files, not networks.
"""
