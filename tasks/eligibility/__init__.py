"""Who may be in a computation: consent first, then criteria that people can read, and a count of who was left out by what."""
