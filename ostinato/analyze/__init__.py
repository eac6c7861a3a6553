"""What can be learned from results: which settings mattered, and what a network computes."""
