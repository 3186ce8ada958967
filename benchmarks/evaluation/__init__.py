"""How fast candidates are evaluated, against what a user would do without Secateur."""
