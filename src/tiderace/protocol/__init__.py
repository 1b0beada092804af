"""What travels between a client and a topic: the Centrifuge client protocol, a subset.

Pure: no ``await``, no socket, no Django. The subset is written down in
``spec/protocol.md``; vectors beside it are read by the tests of both ends.
"""
