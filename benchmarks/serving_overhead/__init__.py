"""What does gRPC add to an engine? The same engine called in process, over gRPC and over vLLM's own HTTP."""
