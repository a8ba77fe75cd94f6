"""How held-out patients become one bounded vector each, and what the sum of these vectors over all hospitals tells."""
