"""What stored results say: statistics, tables, verdicts."""
