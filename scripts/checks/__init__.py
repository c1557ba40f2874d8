"""Commands of developers: speed, kills, resampling."""
