"""All of Malbox in one process, under a seeded scheduler and a virtual clock, with faults."""
