"""One file per page. ``st.navigation`` in ``app.py`` lists them; Streamlit runs each as a script."""
