"""Search spaces: a YAML file, and `key=value` over it, to validated settings and the domains that are searched.

One validator for both: a value that a domain could yield is checked as if it stood in the file, so that a mistake is
one clear line before anything starts, and not a trial that fails in the night.
"""

from graftpop.space.domains import DOMAINS, Domain
from graftpop.space.space import Space, load_space, parse_space

__all__ = ["DOMAINS", "Domain", "Space", "load_space", "parse_space"]
