"""Futures token by token: rows that go on from shared prefixes."""
