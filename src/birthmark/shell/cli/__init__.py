"""The command line: one file a noun, each with ``register(app)``. Nouns are imported when they are used."""
