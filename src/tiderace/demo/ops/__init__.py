"""The operations dashboard: Tiderace's own metrics, once a second, as charts."""
