"""What an operator can say, and how it is read."""
