"""One command per published number, side by side with what it is compared to."""
