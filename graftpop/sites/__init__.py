"""Sites: the weight tensors that are grafted, ranked or dropped, with their units and everything belonging to them."""

from graftpop.sites.channel_groups import ChannelGroup
from graftpop.sites.find import SiteChoice, alpha_share, find_sites
from graftpop.sites.site import Entry, Part, Role, Site

__all__ = ["ChannelGroup", "Entry", "Part", "Role", "Site", "SiteChoice", "alpha_share", "find_sites"]
