"""The way to the other host: destinations, frames, asyncssh. It knows nothing of what the messages mean.

Import from the modules: `frames` is synchronous and light, because the keepers use it; `session` brings asyncssh.
"""
