"""Helpers shared by tests: clients, servers, brokers, clocks and waiting."""
