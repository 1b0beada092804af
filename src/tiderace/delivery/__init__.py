"""Delivers messages inside one process: groups, mailboxes and outboxes; asyncio only."""
