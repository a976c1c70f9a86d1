"""Write the audit trail: its records, their form, and the files and streams that they go to."""
