"""Clients of sites: over ASGI, over WebSockets, over HTTP, and in JavaScript."""
