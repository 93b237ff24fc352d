"""The local REST agent: one station for test executives that speak HTTP, and a page that shows its heads live."""
