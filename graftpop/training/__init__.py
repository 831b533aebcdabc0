"""The training of one network: loop, optimizers, schedules, precision, flat state, sites."""
