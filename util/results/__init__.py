"""What an evaluation writes and what is made of it: scores, figures, comparison, report."""
