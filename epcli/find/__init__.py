"""Which moments of which files: an index of what was said, heard, seen and read, and the search in it."""
