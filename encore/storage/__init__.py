"""Key-value stores of bytes with JSON metadata, queries, transactions and events under one API."""
