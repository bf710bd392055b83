"""What runs after what, and the command line."""
