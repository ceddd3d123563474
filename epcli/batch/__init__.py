"""Whole folders: files and questions -> jobs -> ledger -> one row a job. docs/batch.md is the map of this room."""
