"""Delivers publications to the subscribers of topics in one event loop."""
