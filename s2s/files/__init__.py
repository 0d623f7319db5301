"""Files and folders that are complete or absent, locked, and checked before they are trusted."""
