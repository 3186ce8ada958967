"""Measuring a running server from the outside."""
