"""Prune jobs: kept in the state database, run in processes of their own, watched over gRPC."""
