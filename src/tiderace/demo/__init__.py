"""The demo site: a Django project that uses Tiderace the way a project would.

It knows nothing the documentation does not tell everyone; each folder with a
``urls.py`` is one app of the project.
"""
