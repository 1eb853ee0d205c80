"""Files to pictures and back: loading, cutting out, resizing, encoding."""
