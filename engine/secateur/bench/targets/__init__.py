"""Servers that can be measured, one class each."""
