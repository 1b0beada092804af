"""Answers that grow on every page, survive a reload and can be stopped."""
