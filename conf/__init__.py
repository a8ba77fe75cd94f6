"""Defaults of the lead's configuration, composed by `server.config`; data only, so that a lead can read what a plan is made of."""
