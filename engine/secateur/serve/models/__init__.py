"""Which models a server holds, and what they do."""
