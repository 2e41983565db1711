"""What a program costs on this machine: the only place with a clock."""
