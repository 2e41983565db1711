"""Where models come from: the zoo and Python files, one file each."""
