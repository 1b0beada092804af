"""Monitoring: connections, metrics, traces, logs, probes, a diagnosis."""
