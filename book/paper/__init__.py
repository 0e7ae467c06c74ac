"""The paper's claims, numbers and figures, judged against rows."""
