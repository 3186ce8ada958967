"""Measuring how fast models are: through a running server, in the engine alone, as a table for the search."""
