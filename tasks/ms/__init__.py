"""The tables of an MS hospital: what they hold is declared once, and validation, dictionary and invented tables derive from it."""
