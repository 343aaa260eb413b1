"""The commands of ``a2mim``: settings and a call."""
