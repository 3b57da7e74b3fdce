"""HTTP/1.1's grammar as far as the gate and the body readers need it.

Fragments stand under the RFCs' own names with their section; they are native strings, composed and
compiled to patterns of bytes once. Every repetition is possessive, so a match takes linear time. Where
a rule is narrower than the RFC's, the comment says why.
"""

from __future__ import annotations

import re

# RFC 5234 appendix B.1: the inside of a character class
DIGIT = r"0-9"
ALPHA = r"A-Za-z"
HEXDIG = r"0-9A-Fa-f"
VCHAR = r"\x21-\x7e"
# RFC 9110 section 5.6.2: tchar is the inside of a character class
tchar = rf"!#$%&'*+\-.^_`|~{DIGIT}{ALPHA}"
token = rf"[{tchar}]++"
# RFC 9110 section 5.5: obs-text is the inside of a character class. Outer white space is stripped after
# the match, so that one visible character between blanks is a value (erratum 4189 of RFC 7230).
obs_text = r"\x80-\xff"
field_content = rf"[\t {VCHAR}{obs_text}]*+"
# RFC 9110 section 5.6.4
quoted_pair = rf"\\[\t {VCHAR}{obs_text}]"
quoted_string = rf'"(?:[\t \x21\x23-\x5b\x5d-\x7e{obs_text}]|{quoted_pair})*+"'
# RFC 9112 section 5
field_line = rf"({token}):({field_content})"
# RFC 9112 section 3.2: no blanks and, as it is no URI reference, no fragment. Browsers send characters
# that RFC 3986 does not know (`|`, `{`, `"`) in queries, so they pass. target_char is the inside of a
# character class.
target_char = r"\x21\x22\x24-\x7e"
request_target = rf"[{target_char}]++"
# The same before and behind the first question mark
path_char = r"[\x21\x22\x24-\x3e\x40-\x7e]"
query_char = rf"[{target_char}]"
# RFC 9112 sections 2.3 and 3
http_version = rf"HTTP/([{DIGIT}])\.([{DIGIT}])"
request_line = rf"({token}) ({request_target}) {http_version}"
any_target = rf"{token} [^ ]++ {http_version}"
# RFC 9112 section 3.2.2; of all schemes these two arrive here. A query directly behind the authority is
# legal, but no sender is known that leaves out the path then, and HAProxy refuses it.
absolute_form = rf"(?i:https?)://([\x21\x22\x24-\x2e\x30-\x3e\x40-\x7e]++)((?:/[{target_char}]*+)?+)"
# RFC 9112 section 4. Some servers leave out the blank together with the reason, so it is optional.
status_line = rf"HTTP/1\.([01]) ([1-5][{DIGIT}]{{2}})(?: ({field_content}))?+"
# RFC 9110 section 7.2, RFC 3986 section 3.2.2: reg-name without its sub-delims (a comma would be a
# list) and percent-encoding, which no host on the Internet has; no empty label but a last one.
label = rf"[{ALPHA}{DIGIT}\-_~]++"
reg_name = rf"{label}(?:\.{label})*+\.?+"
IP_literal = rf"\[([{HEXDIG}:.]++)\]"
host = rf"(?:{reg_name}|{IP_literal})(?::([{DIGIT}]{{1,5}}+))?+"
# RFC 9110 section 8.6. 18 digits: every length and every sum of two fit a signed 64-bit integer.
content_length = rf"[{DIGIT}]{{1,18}}+"
# What old analytics scripts store in cookies: control characters, but never a line end or NUL.
droppable_cookie = r"(?i:cookie):[^\x00\r\n]*+"
# RFC 9112 section 7.1; 16 digits, as every 64-bit peer can read them.
chunk_size = rf"[{HEXDIG}]{{1,16}}+"
# RFC 9112 section 7.1.1, without the BWS that its grammar tolerates: a sender must not generate it
# (RFC 9110 section 5.6.3), and blanks around a size are read differently by different parsers.
chunk_ext = rf"(?:;{token}(?:=(?:{token}|{quoted_string}))?+)*+"
# RFC 6455 section 4.1: 16 bytes in base64, whose last digit carries two bits
websocket_key = rf"[{ALPHA}{DIGIT}+/]{{21}}[AQgw]=="


def _compiled(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode("ascii"))


TOKEN = _compiled(token)
FIELD_LINE = _compiled(field_line)
FIELD_CONTENT = _compiled(field_content)
REQUEST_LINE = _compiled(request_line)
ANY_TARGET = _compiled(any_target)
ABSOLUTE_FORM = _compiled(absolute_form)
STATUS_LINE = _compiled(status_line)
HOST = _compiled(host)
CONTENT_LENGTH = _compiled(content_length)
DROPPABLE_COOKIE = _compiled(droppable_cookie)
CHUNK_LINE = _compiled(rf"({chunk_size})({chunk_ext})")
WEBSOCKET_KEY = _compiled(websocket_key)
