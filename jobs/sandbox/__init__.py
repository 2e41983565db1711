"""What code that readers brought may not do, and what holds it back. Linux; without torch."""
