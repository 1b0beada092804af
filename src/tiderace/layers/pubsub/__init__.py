"""The channel layer between processes, over the operations of a ``Broker``."""
