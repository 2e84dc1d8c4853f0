"""Safe reading and writing of weights, and the names of the released files."""
