#!/bin/sh
# Print the messages of an answer as JSON, one after the other. Usage: buf-curl.sh [PROMPT [ADDRESS]]
set -eu

prompt=${1:-Once upon a time}
address=${2:-127.0.0.1:50051}

# A prompt with quotes or backslashes would have to be escaped for JSON.
buf curl --protocol grpc --http2-prior-knowledge \
    --data "{\"text\": \"$prompt\", \"sampling\": {\"maxTokens\": 32, \"temperature\": 0.7, \"seed\": 1}}" \
    "http://$address/secateur.v1.InferenceService/StreamGenerate"
