"""The audit trail: its records, where they go, and how people see them."""
