"""The front door: page config and navigation, nothing else."""

import streamlit as st

st.set_page_config(page_title="fxscope", page_icon=":material/graph_3:", layout="wide")
st.navigation(
    [
        st.Page("pages/explore.py", title="Explore", icon=":material/account_tree:", default=True),
        st.Page("pages/optimize.py", title="Optimize", icon=":material/auto_fix_high:"),
        st.Page("pages/measure.py", title="Measure", icon=":material/timer:"),
    ]
).run()
