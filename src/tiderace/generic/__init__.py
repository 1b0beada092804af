"""Consumers for the protocols that browsers speak: WebSockets and HTTP."""
