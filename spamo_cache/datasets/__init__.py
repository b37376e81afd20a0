"""Raw corpora -> manifest: one file per corpus, ``manifest.py`` for the table."""
