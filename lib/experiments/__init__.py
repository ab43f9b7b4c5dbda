"""What is computed for one unit of each experiment; the notebooks choose the units and read the tables."""
