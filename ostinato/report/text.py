"""Text from outside (names, samples, errors, commands) as HTML."""

import re
from html import escape

# C1 controls, halves of pairs, characters that turn the direction of what follows, and those that are none
FORBIDDEN = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """Text as HTML. Characters that may not stand in a page are shown by their pictures."""
    text = text.replace("\r\n", "\n")
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text).replace("\x7f", "\u2421")
    return escape(FORBIDDEN.sub("\ufffd", text))
