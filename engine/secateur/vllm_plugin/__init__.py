"""What vLLM loads to serve checkpoints whose layers differ."""
