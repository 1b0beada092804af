"""A poll: a presenter, and voters with their phones. Its pages use htmx alone."""
