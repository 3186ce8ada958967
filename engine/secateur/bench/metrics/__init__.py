"""From records of requests to numbers with intervals."""
