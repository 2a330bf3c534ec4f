"""Terminals of moved processes: who keeps one at the destination (server), how it gets there (keeping), and how a
person gets to it (viewer). The server outlives the migration and knows nothing of it."""
