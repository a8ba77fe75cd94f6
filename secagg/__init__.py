"""The coordinator learns the sum over at least t sites, or nothing: the protocol sa1. Pure: no clock, network or file."""
