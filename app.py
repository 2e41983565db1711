"""The front door: page config and navigation, nothing else."""

import streamlit as st

st.set_page_config(page_title="fxscope", page_icon="static/fxscope.svg", layout="wide", initial_sidebar_state=250)
st.navigation(
    [
        st.Page("pages/explore.py", title="Explore", url_path="start", icon=":material/account_tree:", default=True),
        # The default page answers at `/` only; people type its name too.
        st.Page("pages/explore.py", title="Explore", url_path="explore", visibility="hidden"),
        st.Page("pages/optimize.py", title="Optimize", icon=":material/auto_fix_high:"),
        st.Page("pages/memory.py", title="Memory", icon=":material/memory:"),
        st.Page("pages/compare.py", title="Compare", icon=":material/difference:"),
        st.Page("pages/measure.py", title="Measure", icon=":material/timer:"),
    ]
).run()
