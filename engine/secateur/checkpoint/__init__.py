"""Checkpoints: opening them (Hugging Face folders, GGUF files), writing them, the what travels inside."""
