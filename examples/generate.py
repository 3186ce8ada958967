"""Print an answer as it comes. Usage: python generate.py [PROMPT [ADDRESS]]."""

import sys

from secateur.client import CallFailed, Client

prompt = sys.argv[1] if len(sys.argv) > 1 else "Once upon a time"
address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:50051"

with Client(address, timeout=60) as client:
    try:
        # Leaving this loop early, or Ctrl-C, frees the server's memory at once.
        for event in client.generate("", prompt, max_tokens=32, temperature=0.7, seed=1):
            print(event.text, end="", flush=True)
    except CallFailed as failure:
        sys.exit(str(failure))
print()
