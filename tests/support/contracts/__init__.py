"""The contracts of layers and presence stores as test classes, and their processes."""
