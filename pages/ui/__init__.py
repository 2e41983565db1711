"""The few visual elements that pages are made of."""
