"""Drills of the outbox: transactions publish while writers, relays and servers are killed."""
