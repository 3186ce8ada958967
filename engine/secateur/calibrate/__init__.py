"""From text to the block library: corpora, activation statistics, ranking, least-squares repair."""
