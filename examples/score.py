"""How likely does a model find a text? Usage: python score.py TEXT TEXT [ADDRESS]."""

import sys

from secateur.client import Client

texts = sys.argv[1:3]
address = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1:50051"

with Client(address, timeout=60) as client:
    for text, score in zip(texts, client.score_all("", texts), strict=True):
        print(f"perplexity {score.perplexity:8.1f}  {text}")
