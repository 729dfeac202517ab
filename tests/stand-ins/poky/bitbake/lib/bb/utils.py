"""Stand-in for BitBake's utilities."""


def explode_dep_versions2(text):
    return {word: [] for word in text.split() if word[0] not in "(<>=" and word[-1] != ")"}
