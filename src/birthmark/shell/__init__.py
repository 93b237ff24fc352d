"""The shell: configuration, wiring and skins. A skin holds no rule."""
