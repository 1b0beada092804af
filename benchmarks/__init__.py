"""Benchmarks of Tiderace and other servers; ``python -m benchmarks`` runs them."""
