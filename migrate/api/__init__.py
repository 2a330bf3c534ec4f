"""`migrate serve`: the HTTP API, its dashboard, and a client for it."""
