"""The transports of topic clients: WebSocket, HTTP streaming, server-sent events."""
