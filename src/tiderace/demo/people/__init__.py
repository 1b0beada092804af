"""Who is at the demo: seeded users who log in, and guests with a name of their own."""
