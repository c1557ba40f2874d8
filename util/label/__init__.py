"""The labelling page: outline one scan of a folder in the browser, get the others, correct, and export."""
