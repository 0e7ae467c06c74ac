"""The one error that hybret raises for bad input."""


class HybretError(ValueError):
    """Bad input, said in one sentence: what is wrong, what is allowed, what to do.

    Raised before any model runs, so nothing that was computed is lost. The command line prints the sentence
    without a traceback and exits with status 2.
    """
