"""Descriptions of the declared topics for other programs: AsyncAPI and TypeScript."""
