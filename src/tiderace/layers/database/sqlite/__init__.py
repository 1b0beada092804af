"""The layer's SQLite file: connections, the feed of new rows, and wake-ups."""
