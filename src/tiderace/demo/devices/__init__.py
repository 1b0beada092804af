"""Buoys that report from the sea: ingest, newest values, alarms, storage in batches."""
