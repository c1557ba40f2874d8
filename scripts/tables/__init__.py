"""Commands that make the tables and pictures of docs/."""
