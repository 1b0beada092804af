"""The board of the demo: notes, updated live over a topic."""
