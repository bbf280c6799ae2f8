"""The whole pipeline as one resumable build, and its report."""
