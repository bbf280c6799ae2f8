"""Folders, archives, rows and installed packages, as documents."""
