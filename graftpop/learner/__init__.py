"""One peer without Ray: networks, sites, data, augmentation and training."""
