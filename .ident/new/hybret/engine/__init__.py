"""The engine: interventions inside attention, and the loops that run many conditions fast and exactly."""
