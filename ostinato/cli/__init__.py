"""The command line: one file a command, each a function with the name of its file and one call into the library."""
