"""The order in which the files of a repository are read."""
