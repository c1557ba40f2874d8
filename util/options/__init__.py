"""The options of configs/: one table of rules and roles, and the typed sections that functions take."""
