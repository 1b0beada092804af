"""The protocol of topic clients: a subset of the Centrifuge client protocol.

Pure: no ``await``, no socket, no Django. ``spec/protocol.md`` describes the subset; the
tests of server and client use the vectors beside it.
"""
