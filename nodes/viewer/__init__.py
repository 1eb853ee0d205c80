"""Preview Splat: the node, its files and the state that the page sends."""
