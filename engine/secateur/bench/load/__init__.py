"""Sending requests by a plan, and writing down what came back."""
