"""Making training data, training, evaluating; nothing else in the library imports this."""
