"""The results of an evaluation: scores, figures, comparison, report."""
