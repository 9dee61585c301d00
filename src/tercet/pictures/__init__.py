"""Floor 4: figures, each drawn on axes that it is given, and the pages that show them; nothing is computed here."""
