"""From a download to a prepared data set."""
