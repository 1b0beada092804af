"""System checks for ``manage.py check``: of the settings and of the application."""
