"""The engine's two live halves: a source that is watched, frozen and given up, a destination that lands and parks."""
