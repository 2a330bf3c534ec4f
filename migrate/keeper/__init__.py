"""The keepers: one synchronous process per side that holds ptrace, the engine and the journal's decisive entries.

No asyncio here: a call that gives up the GIL costs a thousandfold beside a busy event loop.
"""
