"""What the reader sees: the only place with Streamlit; never a tensor."""
