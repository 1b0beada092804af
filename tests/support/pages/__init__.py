"""The pages of the documentation: their blocks, their commands, and their samples typed."""
