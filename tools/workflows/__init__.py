"""What `tools/workflows.py` is made of."""
