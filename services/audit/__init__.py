"""Audit: what services did and denied, in chains that show when somebody changed them afterwards."""
