"""From ordered documents to packed rows of tokens, on disk and back."""
