"""Evaluation metrics on plain tensors: nothing here reads files or knows how a map was made."""
