"""Origins, credentials and limits of connections."""
