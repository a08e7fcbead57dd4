EXAMPLES = ""


def command() -> None: ...
