"""Interactive views of rows: one ESM file each, live in a notebook and on a page without a kernel."""
