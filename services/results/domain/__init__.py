"""What a report is, what it is made from, and how it is put together. No clock, no I/O."""
