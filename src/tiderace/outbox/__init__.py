"""The transactional outbox: publications are rows, committed with the data they announce.

With ``"tiderace.outbox"`` in ``INSTALLED_APPS``, ``publish()`` inside
``transaction.atomic()`` writes a row into the same database; after the commit a relay
publishes the rows to the layers of their topics. Relays run in the server processes or in
``manage.py tiderace_relay``; one of them is active at a time.
"""
