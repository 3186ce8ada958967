"""Generate, score, tokenize."""
