"""What an arm runs."""
