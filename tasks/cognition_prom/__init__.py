"""Which score will a patient have in a year: SDMT (cognition) or MSIS-29 (what the disease is felt to do)? See `README.md`."""
