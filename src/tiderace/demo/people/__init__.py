"""The people of the demo: seeded users, and guests under a display name."""
