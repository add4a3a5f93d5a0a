"""Fields of a whole call by a schema of one's own, filled in by a text model, with evidence."""
