"""ep-smol, the built-in family."""
