"""Which class of therapy helps this patient: high efficacy against platform, from the day of the first dose."""
