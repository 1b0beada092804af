"""The transactional outbox: publications are rows, committed with the data they announce.

With ``"tiderace.outbox"`` in ``INSTALLED_APPS``, ``publish()`` inside
``transaction.atomic()`` writes a row into the same database; a relay hands the rows to
the layers of their topics after the commit. It is at work in the server processes, one
at a time, or in ``manage.py tiderace_relay``.
"""
