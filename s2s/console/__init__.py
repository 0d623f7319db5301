"""The command line: text for people, exit codes, output files."""
