"""The engine's own speed, without a server, beside what the memory bandwidth allows."""
