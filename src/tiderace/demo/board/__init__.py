"""The demo's board: notes that everybody sees change, on a topic."""
