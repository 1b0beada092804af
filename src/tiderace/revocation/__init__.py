"""Ends or re-checks open connections when a log-in or a permission is withdrawn."""
