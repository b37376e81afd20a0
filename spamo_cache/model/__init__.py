"""The sign adapter, VT-Align, the language model, and the translator that joins them."""
