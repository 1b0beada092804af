"""Servers as processes of their own: sites, brokers, databases, nginx, and their faults."""
