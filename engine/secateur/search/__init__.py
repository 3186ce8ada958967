"""The search: samplers propose, a predictor ranks, a table of single cuts tells where to begin."""
