"""What is taught: lessons as files, and how they are read and bound to records. Without torch and without Streamlit."""
