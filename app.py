"""The front door: page config, sign-in and navigation, nothing else."""

import streamlit as st

from pages.ui import class_room, sign_in

st.set_page_config(page_title="fxscope", page_icon="static/fxscope.svg", layout="wide", initial_sidebar_state=250)
may_enter = sign_in.gate()
pages = [
    st.Page("pages/explore.py", title="Explore", url_path="start", icon=":material/account_tree:", default=True),
    # The default page answers at `/` only; people type its name too.
    st.Page("pages/explore.py", title="Explore", url_path="explore", visibility="hidden"),
    st.Page("pages/optimize.py", title="Optimize", icon=":material/auto_fix_high:"),
    st.Page("pages/memory.py", title="Memory", icon=":material/memory:"),
    st.Page("pages/compare.py", title="Compare", icon=":material/difference:"),
    st.Page("pages/measure.py", title="Measure", icon=":material/timer:"),
    st.Page("pages/profile_nodes.py", title="Profile", icon=":material/monitoring:"),
    st.Page("pages/predict.py", title="Predict", icon=":material/online_prediction:"),
    st.Page("pages/learn.py", title="Learn", icon=":material/school:"),
    st.Page("pages/classroom.py", title="Class", icon=":material/groups:"),
    st.Page("pages/gallery.py", title="Gallery", icon=":material/grid_view:"),
    st.Page("pages/about.py", title="About", icon=":material/info:"),
]
page = st.navigation(pages, position="sidebar" if may_enter else "hidden")
if may_enter:
    class_room.run(page, pages)
