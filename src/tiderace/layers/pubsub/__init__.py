"""The channel layer between processes, over any ``tiderace.layers.broker.Broker``."""
