"""The protocol of vLLM's own gRPC server, as far as text needs it: vllm.grpc.engine.VllmEngine."""
