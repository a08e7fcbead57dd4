"""Registration in the scene: the live transform and what it is made with, its results, its words."""
