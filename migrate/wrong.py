"""What is wrong with a request or a file, in words of ours: the field, then the reason. Pure."""

from typing import Final

from pydantic import ValidationError

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
PATH_PATTERN: Final = "^/"
TTY_PATTERN: Final = "^(new$|/)"
# What does not match them, told to a person.
PATTERNS: Final = {
    NAME_PATTERN: "is not a name: names are letters, digits and . _ -, a letter or digit first, 100 at most",
    PATH_PATTERN: "is not an absolute path",
    TTY_PATTERN: "is neither `new` nor an absolute path",
}
_REASONS: Final = {
    "missing": "is missing", "extra_forbidden": "is not a known field", "json_invalid": "is not JSON",
    "int_parsing": "is not a whole number", "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number", "float_parsing": "is not a number", "string_type": "is not a text",
    "bool_type": "is neither true nor false", "bool_parsing": "is neither true nor false", "list_type": "is not a list",
    "dict_type": "is not an object", "model_type": "is not an object", "model_attributes_type": "is not an object",
    "greater_than_equal": "is below {ge}", "greater_than": "is not above {gt}", "less_than_equal": "is above {le}",
    "less_than": "is not below {lt}", "string_too_short": "has fewer than {min_length} characters",
    "string_too_long": "has more than {max_length} characters",
    "literal_error": "is not {expected}", "enum": "is not {expected}", "value_error": "{error}",
}  # fmt: skip


def wrong_with(error: ValidationError, whole: str = "the body") -> str:
    """The first wrong field and why; `whole`: what is named when no field is."""
    first = error.errors()[0]
    loc = [part for part in first["loc"] if part != "[key]"]
    if loc and isinstance(loc[-1], int):  # the value itself is told below, not its number in the list
        loc.pop()
    place = ".".join(map(str, loc))
    if first["type"] == "string_pattern_mismatch":
        return f"{place or whole}: {first['input']!r} {PATTERNS[first['ctx']['pattern']]}"
    reason = _REASONS.get(first["type"], "is not what this field takes").format(**first.get("ctx", {}))
    return f"{place or whole}: {reason}"
