"""Winning back what cutting cost: a slim model learns from its dense one."""
