"""From tables of scores to verdicts, figures and the page of claims."""
