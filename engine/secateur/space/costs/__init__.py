"""Cost models: what a sub-block of some width costs, for everything that can be budgeted."""
