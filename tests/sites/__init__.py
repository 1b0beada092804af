"""Sites that tests serve, each an ASGI application of its own."""
