"""Figures of a study's page, each drawn as SVG from its part of the document and nothing else."""
