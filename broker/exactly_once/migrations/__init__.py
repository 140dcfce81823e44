"""The schema, step by step: what ``upgrade`` runs, or your own alembic.ini by ``broker.exactly_once:migrations``."""
