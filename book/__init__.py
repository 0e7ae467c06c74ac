"""The book: analysis of the paper, measurements of speed, the runner of the notebooks, and Sphinx extensions."""
