"""Message classes generated from ../*.proto by `python -m core.images.generate`; nothing here is written by hand."""
