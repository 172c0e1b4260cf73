"""What `autopv evaluate` measures: sets of images against each other, by region, by class and by use."""
