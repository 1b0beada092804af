"""Buttons that break connections, processes and brokers, and counters of what is lost."""
