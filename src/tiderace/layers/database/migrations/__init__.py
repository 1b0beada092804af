"""The tables on PostgreSQL; nothing on other databases."""
