"""Rooms to talk in: history, typing, notices, and a return without loss."""
