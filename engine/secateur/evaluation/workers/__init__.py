"""Evaluating on several processes or machines: workers, each with a model and an evaluator of its own."""
