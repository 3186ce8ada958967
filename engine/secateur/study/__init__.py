"""What was evaluated, kept on disk or in a database."""
