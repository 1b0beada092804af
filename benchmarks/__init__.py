"""Measurements of Tiderace beside others; ``python -m benchmarks`` runs them."""
