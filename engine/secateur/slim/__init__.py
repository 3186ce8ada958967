"""From an architecture to a checkpoint: surgery, export, the files that travel inside, the vLLM plugin."""
