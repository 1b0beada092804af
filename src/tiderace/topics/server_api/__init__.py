"""The server API of topics: functions for the project, commits, and the HTTP API."""
