"""A client of topics for tests, and a testbed with captured publications."""
