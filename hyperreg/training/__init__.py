"""Training: image synthesis and training loops. Never needed to use the application."""
