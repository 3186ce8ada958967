"""One command that checks all of Secateur that needs a GPU: `make gpu-check`."""
