"""The options of configs/: typed sections that declare them and that functions take, and the reading of configs."""
