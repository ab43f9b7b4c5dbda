"""Everything that trains: networks on the spot, priors, robust training, many networks at once."""
