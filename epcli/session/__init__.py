"""One model and its settings: open a file, look at it, ask about it."""
