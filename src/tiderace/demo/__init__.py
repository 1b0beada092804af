"""The demo site: a Django project that uses the public API of Tiderace.

Each folder with a ``urls.py`` is an app of the project.
"""
