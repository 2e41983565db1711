"""What a graph is: capture, records, cost, lifetimes. Knows torch; no optimization, no clock, no Streamlit."""
