"""The one versioned label engine: confirmed events from visits, relapses and scans, the same at every site."""
