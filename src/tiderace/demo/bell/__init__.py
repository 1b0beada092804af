"""Notifications: kept in the database, counted on every page and in every tab."""
