"""One drill per file: start, load, fault, verdict."""
