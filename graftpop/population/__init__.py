"""One population: rounds of training and exchange over a group of peers, with recovery from losses.

This folder knows neither Ray nor files. Imports go `population` -> `recovery`, `async_rounds` -> `roster` -> `group`,
`round`.
"""

from graftpop.population.group import Calls, Group, LocalGroup
from graftpop.population.population import Population
from graftpop.population.round import Round
from graftpop.rows import Event

__all__ = ["Calls", "Event", "Group", "LocalGroup", "Population", "Round"]
