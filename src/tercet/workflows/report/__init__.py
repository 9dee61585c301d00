"""The page about a run: what was asked, what came out, how sure that is, and what it cost."""
