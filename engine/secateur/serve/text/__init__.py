"""What runs on text of others, in processes of its own: chat templates and tokenisers."""
