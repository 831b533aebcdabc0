"""One population: rounds of training and exchange over a group of peers, some of which may be lost on the way.

Knows neither Ray nor files. Imports go `population` -> `recovery`, `own_pace` -> `roster` -> `group`, `round`.
"""

from graftpop.population.group import Calls, Group, LocalGroup
from graftpop.population.population import Population
from graftpop.population.round import Event, Round

__all__ = ["Calls", "Event", "Group", "LocalGroup", "Population", "Round"]
