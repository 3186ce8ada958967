"""The dense model as sub-blocks: families, loading, and the forward pass that can be pruned."""
