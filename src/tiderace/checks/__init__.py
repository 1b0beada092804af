"""System checks of ``manage.py check``."""
