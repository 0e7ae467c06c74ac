"""How the small models were trained and evaluated, and how their model cards are written."""
