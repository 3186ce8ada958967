"""Checkpoints: opening them (Hugging Face folders, GGUF files), writing them, what travels inside."""
