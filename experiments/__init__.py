"""Scripts: the only place that reads options, opens files, prints, picks a device, sets a seed."""
