"""What is kept: files, provenance, finished units of work."""
