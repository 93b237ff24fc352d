"""A seeded world of one authority and five sites, driven by the program's own workflows in one process."""
