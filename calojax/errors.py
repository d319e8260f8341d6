"""The one exception that is meant for users: a sentence that says what, where and what to do."""


class CalojaxError(Exception):
    """Bad input or a bad environment, told in one sentence that names the file, value and remedy.

    The command line prints the sentence without a traceback and exits with status 1. Everything
    else that is raised is a bug in calojax and keeps its traceback.
    """
