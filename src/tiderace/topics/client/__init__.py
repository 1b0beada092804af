"""Serves one client of topics: its commands, subscriptions and timers."""
