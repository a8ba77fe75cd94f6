"""Predictions from a day of the patient's history: which days, what was known on them, and the inputs made of that alone."""
