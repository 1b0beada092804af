"""The chat of the demo: rooms, history, typing, notices and recovery."""
