"""Results in a database: a DuckDB file or PostgreSQL, one row a call, speaker, turn and word."""
