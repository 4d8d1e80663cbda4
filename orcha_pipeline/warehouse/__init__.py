"""The DuckDB warehouse: migrations, connection, typed reads and writes."""
