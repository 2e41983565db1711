"""The app with what a public server needs around it: headers, limits, and PyTorch loaded before the first visitor. `streamlit run server.py`."""

import streamlit as st
from starlette.middleware import Middleware

from pages.ui import web, web_late

AROUND = [Middleware(web.Headers), Middleware(web.SameOrigin), Middleware(web_late.LateRequests), Middleware(web.Uploads)]
web.opened()
app = st.App("app.py", lifespan=web.lifespan, middleware=AROUND, on_script_error=web.unexpected)
