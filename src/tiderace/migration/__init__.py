"""Reads a project written for Channels, and moves it: ``python -m tiderace migrate``."""
