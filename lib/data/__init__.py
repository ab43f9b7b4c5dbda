"""What is explained: photographs, digits, other image sets, tables."""
