"""What may be searched: widths, shapes, budgets and their costs."""
