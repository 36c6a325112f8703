"""What is treated as a secret: by the name of its variable or key, or by the look of its value (P25)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

SHORTEST = 8  # characters; anything shorter may be found in another text by chance

# Anywhere in a name (MYTOKEN, HF_TOKEN_2), or at its end. TOKENIZERS_PARALLELISM, MAX_TOKENS and PWD are none.
SECRET_NAME = re.compile(
    r"token(?![is])|secret|passw|passphrase|credential|api_?key|access_?key|private_?key|(^|_)key(_|$)|key$|cookie|_jwt"
    r"|webhook|connection_string|authorization|(?<!ask)(?<!by)pass$|(?<!^)(?<!^old)pwd$|_dsn$|_pat$",
    re.IGNORECASE,
)
# Of these, every variable that may name an account or a key: all but places of the network.
CLOUD_NAME = re.compile(r"(AWS|AZURE)_(?!CA_BUNDLE$|(DEFAULT_)?REGION$)")
RAYS_OWN = "RAY_"  # its token is what Ray itself needs
SECRET_VALUE = re.compile(
    r"\b(gh[opsu]_\w{30}|github_pat_\w{20}|hf_[A-Za-z0-9]{30}|sk-[\w-]{20}|xox[abpr]-[\w-]{12}|glpat-[\w-]{20}"
    r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35}|ya29\.[\w-]{20}|eyJ[\w-]{8,}\.eyJ)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name would hold a secret."""
    return bool(SECRET_NAME.search(name) or CLOUD_NAME.match(name))


def is_secret_value(text: str) -> bool:
    """Whether a text holds something in the form of a well-known secret, or a password in an address."""
    return bool(SECRET_VALUE.search(text))


def secret_variables(environment: Mapping[str, str]) -> list[str]:
    """The names of the variables that hold a secret, or the value of one that does; sorted."""
    named = {name for name, value in environment.items() if is_secret_name(name) or is_secret_value(value)}
    values = {environment[name] for name in named if len(environment[name]) >= SHORTEST}
    copies = {name for name, value in environment.items() if value in values and not value.startswith(("/", "~", "."))}
    return sorted(name for name in named | copies if not name.startswith(RAYS_OWN))


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that any of the patterns, like AWS_*, matches."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
