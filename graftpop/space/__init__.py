"""Search spaces: validated settings and search domains, read from a YAML file and `key=value` overrides.

Every value that a domain may yield is validated like a fixed value. A mistake is reported in one line before the study
starts, instead of by a trial that fails hours later.
"""

from graftpop.space.domains import DOMAINS, Domain
from graftpop.space.parsing import load_space, parse_space, parse_without_torch, read_space
from graftpop.space.space import Space

__all__ = ["DOMAINS", "Domain", "Space", "load_space", "parse_space", "parse_without_torch", "read_space"]
