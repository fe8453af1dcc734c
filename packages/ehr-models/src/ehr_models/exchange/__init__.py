"""Models given to others and taken from them: export, push to a hub, import."""
