"""Who may call what, how often, and how a call ends: the same for every service."""
