"""What scripts/tables/organs.py is made of."""
