"""The last metres of a message, inside one process: who listens, and what waits for whom.

Asyncio only: nothing here knows Django, layers, consumers or what a message means.
"""
