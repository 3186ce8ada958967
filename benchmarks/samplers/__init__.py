"""Samplers against each other at equal evaluations, and what the predictor makes of their pairs."""
