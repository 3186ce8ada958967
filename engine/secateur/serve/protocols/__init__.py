"""The same services in the protocols of other servers."""
