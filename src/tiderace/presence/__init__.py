"""Presence: the members of a group, across processes."""
